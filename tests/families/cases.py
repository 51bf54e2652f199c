"""Small random models of every family, built and written by transformers: the judges of our own forward pass.

Each case is one setting of a family's flags. Its directory is written once a session; weights are large,
which keeps routing and greedy choices far from ties.
"""

import atexit
import copy
import functools
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.families.case import CLASSES, VOCAB, Case

# Its bars would land in the captured output of whichever test comes first.
transformers.utils.logging.disable_progress_bar()


def _case(family: str, name: str, **fields: Any) -> Case:
  return Case(family, name, fields)


def _theta(value: float) -> dict[str, Any]:
  return {"rope_type": "default", "rope_theta": value}


MIXTRAL = (
  _case("mixtral", "plain", intermediate_size=48, num_key_value_heads=2, num_local_experts=4),
  _case(
    "mixtral", "window", intermediate_size=48, num_key_value_heads=4, num_local_experts=8,
    num_experts_per_tok=3, sliding_window=5, num_hidden_layers=3,
  ),
  _case(
    "mixtral", "wide_heads_tied", intermediate_size=32, num_key_value_heads=1, num_local_experts=6,
    head_dim=32, tie_word_embeddings=True, rope_parameters=_theta(500.0),
  ),
  _case(
    "mixtral", "top1", intermediate_size=40, num_key_value_heads=2, num_local_experts=5,
    num_experts_per_tok=1, rms_norm_eps=1e-3, eos_token_id=[2, 3],
  ),
)  # fmt: skip
OLMOE = (
  _case("olmoe", "plain", intermediate_size=48, num_experts=8, num_experts_per_tok=2),
  _case(
    "olmoe", "renormalised_clipped", intermediate_size=32, num_experts=16, num_experts_per_tok=4,
    norm_topk_prob=True, clip_qkv=0.8, num_key_value_heads=2,
  ),
  _case(
    "olmoe", "biased_tied", intermediate_size=32, num_experts=4, num_experts_per_tok=3, attention_bias=True,
    tie_word_embeddings=True, num_key_value_heads=1, num_hidden_layers=3,
  ),
  _case(
    "olmoe", "all_experts", intermediate_size=24, num_experts=6, num_experts_per_tok=6, rms_norm_eps=1e-2,
    rope_parameters=_theta(300.0), num_key_value_heads=4,
  ),
)  # fmt: skip
# With one head, a norm over the projection has as long a scale as one over each head; the clip comes after the first
# and before the second.
OLMOE_ONE_HEAD = tuple(
  _case(
    "olmoe", f"{heads}_query_1_key_head_clip_{clip}", intermediate_size=32, num_experts=4, num_experts_per_tok=2,
    num_attention_heads=heads, num_key_value_heads=1, clip_qkv=clip, num_hidden_layers=1,
  )
  for heads, clip in ((4, 0.8), (1, 0.8), (1, None))
)  # fmt: skip
QWEN3_MOE = (
  _case(
    "qwen3_moe", "plain", intermediate_size=96, moe_intermediate_size=40, num_key_value_heads=2,
    num_experts=8, num_experts_per_tok=2, norm_topk_prob=True, head_dim=32,
  ),
  _case(
    "qwen3_moe", "raw_weights_tied", intermediate_size=96, moe_intermediate_size=32, num_key_value_heads=1,
    num_experts=16, num_experts_per_tok=4, norm_topk_prob=False, tie_word_embeddings=True, head_dim=8,
  ),
  _case(
    "qwen3_moe", "dense_layers", intermediate_size=72, moe_intermediate_size=32, num_key_value_heads=4,
    num_experts=4, num_experts_per_tok=2, norm_topk_prob=True, mlp_only_layers=[0], num_hidden_layers=3,
    head_dim=16, rope_parameters=_theta(1000.0),
  ),
  _case(
    "qwen3_moe", "biased_window_every_second", intermediate_size=56, moe_intermediate_size=24,
    num_key_value_heads=2, num_experts=6, num_experts_per_tok=1, norm_topk_prob=True, attention_bias=True,
    use_sliding_window=True, sliding_window=4, decoder_sparse_step=2, num_hidden_layers=4,
  ),
)  # fmt: skip
QWEN2_MOE = (
  _case(
    "qwen2_moe", "plain", intermediate_size=96, moe_intermediate_size=24, shared_expert_intermediate_size=40,
    num_key_value_heads=4, num_experts=8, num_experts_per_tok=2,
  ),
  _case(
    "qwen2_moe", "renormalised_tied_without_bias", intermediate_size=96, moe_intermediate_size=16, num_experts=6,
    shared_expert_intermediate_size=24, num_key_value_heads=2, num_experts_per_tok=3, norm_topk_prob=True,
    tie_word_embeddings=True, qkv_bias=False, num_hidden_layers=1,
  ),
  _case(
    "qwen2_moe", "dense_layers_window", intermediate_size=48, moe_intermediate_size=16, num_experts=4,
    shared_expert_intermediate_size=32, num_key_value_heads=1, num_experts_per_tok=1, num_hidden_layers=3,
    decoder_sparse_step=2, use_sliding_window=True, sliding_window=5, rope_parameters=_theta(300.0),
  ),
  _case(
    "qwen2_moe", "one_layer_listed_linear", intermediate_size=32, moe_intermediate_size=16, num_experts=5,
    shared_expert_intermediate_size=16, num_key_value_heads=4, num_experts_per_tok=2, mlp_only_layers=[1],
    rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
  ),
)  # fmt: skip
GRANITEMOE = (
  _case(
    "granitemoe", "plain", intermediate_size=24, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=3,
    embedding_multiplier=3.0, attention_multiplier=0.1, residual_multiplier=0.7, logits_scaling=4.0,
    tie_word_embeddings=True,
  ),
  _case("granitemoe", "multipliers_of_one", intermediate_size=24, num_local_experts=4, attention_multiplier=0.25),
  _case(
    "granitemoe", "biased", intermediate_size=16, num_key_value_heads=1, num_local_experts=6, num_experts_per_tok=2,
    attention_bias=True, residual_multiplier=0.22, attention_multiplier=0.2, num_hidden_layers=1,
  ),
  _case(
    "granitemoe", "yarn", intermediate_size=16, num_key_value_heads=4, num_local_experts=5, num_experts_per_tok=1,
    embedding_multiplier=0.5, logits_scaling=0.5, attention_multiplier=0.25, rms_norm_eps=1e-3, num_hidden_layers=1,
    rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32},
  ),
)  # fmt: skip
_OSS_YARN = {
  "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
  "truncate": False, "original_max_position_embeddings": 8,
}  # fmt: skip
GPT_OSS = (
  _case(
    "gpt_oss", "plain", intermediate_size=24, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
    head_dim=16, sliding_window=6, rope_parameters=_OSS_YARN,
  ),
  _case(
    "gpt_oss", "full_first_narrow_limit", intermediate_size=16, num_key_value_heads=1, num_local_experts=4,
    num_experts_per_tok=3, head_dim=32, sliding_window=4, swiglu_limit=0.5, swiglu_alpha=1.1,
    layer_types=["full_attention", "sliding_attention"], rope_parameters=_OSS_YARN,
  ),
  _case(
    "gpt_oss", "without_attention_bias_tied", intermediate_size=16, num_key_value_heads=4, num_local_experts=5,
    num_experts_per_tok=1, head_dim=8, attention_bias=False, tie_word_embeddings=True, num_hidden_layers=1,
    sliding_window=12, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
  ),
  _case(
    "gpt_oss", "all_experts_truncated", intermediate_size=16, num_key_value_heads=2, num_local_experts=4,
    num_experts_per_tok=4, head_dim=16, num_hidden_layers=1, layer_types=["full_attention"],
    rope_parameters=_OSS_YARN | {"truncate": True, "original_max_position_embeddings": 64},
  ),
)  # fmt: skip


def _dbrx(name: str, attention: dict[str, Any], ffn: dict[str, Any], **fields: Any) -> Case:
  theta = fields.setdefault("rope_parameters", _theta(1e4))["rope_theta"]
  return _case("dbrx", name, attn_config=attention | {"rope_theta": theta}, ffn_config=ffn, **fields)


DBRX = (
  _dbrx(
    "plain", {"kv_n_heads": 2, "clip_qkv": 0.8},
    {"ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 4}, rope_parameters=_theta(5e5),
  ),
  # transformers cannot run `clip_qkv` null: it asks torch to clamp to nothing.
  _dbrx(
    "clip_beyond_reach", {"kv_n_heads": 4, "clip_qkv": 1e4},
    {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 1},
  ),
  _dbrx(
    "raw_weights", {"kv_n_heads": 1, "clip_qkv": 8.0},
    {"ffn_hidden_size": 16, "moe_num_experts": 6, "moe_top_k": 2, "moe_normalize_expert_weights": None}, n_layers=1,
  ),
  _dbrx(
    "all_experts_llama3", {"kv_n_heads": 2, "clip_qkv": 2.0},
    {"ffn_hidden_size": 16, "moe_num_experts": 3, "moe_top_k": 3}, n_layers=1,
    rope_parameters={
      "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64,
    },
  ),
)  # fmt: skip
_LONG = {
  "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5],
  "long_factor": [1.5, 2.0, 3.0, 5.0, 8.0, 10.0, 20.0, 40.0], "short_mscale": 1.1, "long_mscale": 1.3,
}  # fmt: skip
PHIMOE = (
  _case(
    "phimoe", "plain", intermediate_size=24, num_key_value_heads=2, num_local_experts=8, attention_bias=True,
    lm_head_bias=True, rope_parameters=_LONG | {"original_max_position_embeddings": 128}, sliding_window=128,
  ),
  _case(
    "phimoe", "long", intermediate_size=16, num_key_value_heads=4, num_local_experts=4, attention_bias=True,
    rope_parameters=_LONG | {"original_max_position_embeddings": 12}, num_hidden_layers=1,
  ),
  _case(
    "phimoe", "window_without_biases", intermediate_size=16, num_key_value_heads=1, num_local_experts=6,
    sliding_window=5, tie_word_embeddings=True, rope_parameters=_theta(1e4),
  ),
  _case(
    "phimoe", "two_experts", intermediate_size=16, num_key_value_heads=2, num_local_experts=2, lm_head_bias=True,
    rms_norm_eps=1e-2, num_hidden_layers=1, rope_parameters=_theta(500.0),
  ),
)  # fmt: skip
_LLAMA3 = {
  "rope_type": "llama3", "rope_theta": 500000.0, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
  "original_max_position_embeddings": 128,
}  # fmt: skip
LLAMA4_TEXT = (
  _case(
    "llama4_text", "plain", intermediate_size=24, intermediate_size_mlp=48, num_key_value_heads=2, head_dim=16,
    num_local_experts=8, attention_chunk_size=6, no_rope_layer_interval=2, floor_scale=8, attn_scale=0.5,
    rope_parameters=_LLAMA3,
  ),
  _case(
    "llama4_text", "dense_layers_without_norm_or_tuning", intermediate_size=16, intermediate_size_mlp=32,
    num_key_value_heads=1, head_dim=8, num_local_experts=4, interleave_moe_layer_step=2, use_qk_norm=False,
    attn_temperature_tuning=False, no_rope_layers=[1, 0], attention_chunk_size=16, rope_parameters=_theta(1e4),
  ),
  _case(
    "llama4_text", "two_experts_biased_tied", intermediate_size=16, intermediate_size_mlp=32, num_key_value_heads=4,
    head_dim=16, num_local_experts=5, num_experts_per_tok=2, attention_bias=True, tie_word_embeddings=True,
    attention_chunk_size=None, num_hidden_layers=1, rope_parameters=_theta(1e4),
  ),
  _case(
    "llama4_text", "only_listed_layers", intermediate_size=16, intermediate_size_mlp=24, num_key_value_heads=2,
    head_dim=16, num_local_experts=3, moe_layers=[0], no_rope_layers=[0, 1], attention_chunk_size=9, floor_scale=4,
    rope_parameters=_theta(1e4),
  ),
)  # fmt: skip
_LATENT = {
  "kv_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12, "q_lora_rank": None,
  "intermediate_size": 80, "moe_intermediate_size": 24, "n_routed_experts": 8, "num_experts_per_tok": 2,
  "num_key_value_heads": 4,
}  # fmt: skip


def _yarn(**fields: float) -> dict[str, Any]:
  return {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32, **fields}


def _deepseek(family: str, name: str, **fields: Any) -> Case:
  return Case(family, name, _LATENT | fields)


DEEPSEEK_V2 = (
  _deepseek("deepseek_v2", "plain", n_shared_experts=2, first_k_dense_replace=1),
  _deepseek(
    "deepseek_v2", "grouped_yarn_query_latent", n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=20,
    topk_method="group_limited_greedy", n_group=4, topk_group=2, num_experts_per_tok=3, routed_scaling_factor=3.0,
    rope_parameters=_yarn(mscale=0.707, mscale_all_dim=0.707),
  ),
  _deepseek(
    "deepseek_v2", "biased_tied_uneven_mscale", n_shared_experts=1, attention_bias=True, tie_word_embeddings=True,
    q_lora_rank=16, rope_parameters=_yarn(mscale=1.0, mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0),
  ),
  _deepseek(
    "deepseek_v2", "scaled_rope_without_mscale", n_shared_experts=3, num_hidden_layers=3, first_k_dense_replace=2,
    routed_scaling_factor=0.5, n_routed_experts=6, num_experts_per_tok=6, rms_norm_eps=1e-2, v_head_dim=20,
    rope_parameters=_yarn(),
  ),
)  # fmt: skip
DEEPSEEK_V3 = (
  _deepseek(
    "deepseek_v3", "plain", first_k_dense_replace=1, q_lora_rank=20, n_group=2, topk_group=1,
    rope_parameters=_yarn(mscale=1.0, mscale_all_dim=1.0),
  ),
  _deepseek(
    "deepseek_v3", "raw_weights_of_eight_groups", first_k_dense_replace=0, n_routed_experts=16, n_group=8, topk_group=4,
    num_experts_per_tok=4, norm_topk_prob=False, routed_scaling_factor=0.7, tie_word_embeddings=True,
  ),
  _deepseek(
    "deepseek_v3", "halves_one_group", first_k_dense_replace=2, num_hidden_layers=3, n_group=1, topk_group=1,
    rope_interleave=False, n_shared_experts=2, q_lora_rank=16, rope_parameters=_yarn(mscale=0.5, mscale_all_dim=0.8),
  ),
  _deepseek(
    "deepseek_v3", "biased_top1", first_k_dense_replace=1, attention_bias=True, q_lora_rank=24, n_group=4, topk_group=2,
    num_experts_per_tok=1, routed_scaling_factor=1.0, rope_parameters=_theta(300.0),
  ),
)  # fmt: skip
CASES = (
  *DEEPSEEK_V2, *DEEPSEEK_V3, *MIXTRAL, *OLMOE, *QWEN3_MOE,
  *QWEN2_MOE, *GRANITEMOE, *GPT_OSS, *DBRX, *PHIMOE, *LLAMA4_TEXT,
)  # fmt: skip


@functools.cache
def reference(case: Case) -> Any:
  """The transformers model of a case, in float32, with its random weights."""
  model = CLASSES[case.family][1](case.config()).eval()
  generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      drawn = torch.randn(parameter.shape, generator=generator)
      if "norm" in name and name.endswith("weight") and parameter.ndim == 1:
        parameter.copy_(1 + 0.3 * drawn)
      else:
        parameter.copy_((1.0 if "embed" in name or "wte" in name else 0.2) * drawn)
    for name, buffer in model.named_buffers():
      if name.endswith("e_score_correction_bias"):
        buffer.copy_(0.5 * torch.randn(buffer.shape, generator=generator))
  if case.family == "phimoe":
    _hand_on_lengths(model.model.rotary_emb)
    # transformers reads a row again when it grows past the original context; here its cached keys stay as they are.
    model.prepare_inputs_for_generation = functools.partial(
      transformers.GenerationMixin.prepare_inputs_for_generation,  # pyright: ignore[reportAttributeAccessIssue]
      model,
    )
  return model


def _hand_on_lengths(rotary: Any) -> None:
  """Gives LongRoPE a prompt's length, as the code that came with Phi-3.5-MoE does and transformers 5 forgets to."""
  compute, seen = rotary.rope_init_fn, [0]

  def remember(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
    seen[0] = int(positions.max()) + 1

  rotary.register_forward_pre_hook(remember, with_kwargs=True)
  rotary.rope_init_fn = lambda config: compute(config, seq_len=seen[0])


def reference_logits(case: Case, token_ids: np.ndarray) -> np.ndarray:
  """float32 logits [B, L, V] of the reference for whole rows of tokens."""
  with torch.no_grad():
    return reference(case)(torch.tensor(token_ids, dtype=torch.long), use_cache=False).logits.numpy()


def random_tokens(case: Case, rows: int, length: int) -> np.ndarray:
  """int32 [rows, length], the same at every call."""
  seed = zlib.crc32(f"{case} {rows} {length}".encode())
  return np.random.default_rng(seed).integers(3, VOCAB, (rows, length), dtype=np.int32)


@functools.cache
def checkpoint(case: Case, dtype: str = "float32") -> Path:
  """Directory of the case as transformers' `save_pretrained` writes it; made once, and not to be changed."""
  path = _root() / f"{case}-{dtype}"
  model = copy.deepcopy(reference(case)).to(getattr(torch, dtype))
  for name, buffer in model.named_buffers():
    # As files on the hub have it, and as transformers keeps it.
    if name.endswith("e_score_correction_bias"):
      buffer.data = reference(case).get_buffer(name).clone()
  model.save_pretrained(path)
  return path


@functools.cache
def _root() -> Path:
  root = tempfile.mkdtemp(prefix="lynx_jax_checkpoints_")
  atexit.register(shutil.rmtree, root, ignore_errors=True)
  return Path(root)
