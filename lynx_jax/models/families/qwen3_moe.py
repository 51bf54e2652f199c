"""Qwen3-MoE: q and k normed per head, an explicit head width; dense layers, biases, sliding window as set.

Tensors: experts under `mlp.experts.E`; a dense layer's projections right under `mlp`.

Reference: transformers, `models/qwen3_moe/modeling_qwen3_moe.py`; arXiv 2505.09388.
"""

import functools
from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, stop_ids
from lynx_jax.models.families.qwen_layers import ffns
from lynx_jax.models.families.rope_fields import plain_theta, rope
from lynx_jax.models.families.tensor_names import decoder_rules, dense, expert_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` qwen3_moe describes."""
  fields = Fields("qwen3_moe", config)
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 32768)
  attention = AttentionSpec(
    heads=fields.whole("num_attention_heads"),
    kv_heads=fields.whole_or("num_key_value_heads", 4),
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qk_norm="head",
    qkv_bias=fields.flag("attention_bias", False),
    output_bias=fields.flag("attention_bias", False),
    window=_window(fields),
  )
  experts = functools.partial(MoESpec, router=Router(renormalize=fields.flag("norm_topk_prob", False)))
  layers = (LayerSpec(attention=attention, ffn=ffn) for ffn in ffns(fields, experts))
  return DecoderSpec(
    family="qwen3_moe",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.number("rms_norm_eps", 1e-6),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def config(model: DecoderSpec) -> dict[str, Any]:
  """The `config.json` of `model`, for writing a model of one's own; `spec(config(x)) == x`.

  Raises:
    ValueError: the layers differ in what a Qwen3-MoE configuration has only one of.
  """
  attention = model.layers[0].attention
  moe = {layer.ffn for layer in model.layers if isinstance(layer.ffn, MoESpec)}
  dense = {layer.ffn for layer in model.layers if isinstance(layer.ffn, DenseSpec)}
  if len(moe) != 1 or len(dense) > 1 or any(layer.attention != attention for layer in model.layers):
    raise ValueError("a Qwen3-MoE configuration needs layers with one kind of attention, experts and dense network")
  if not isinstance(attention, AttentionSpec):
    raise ValueError("a Qwen3-MoE configuration has grouped-query attention, not latent attention")
  (experts,) = moe
  written = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": model.vocab,
    "hidden_size": model.width,
    "num_hidden_layers": len(model.layers),
    "num_attention_heads": attention.heads,
    "num_key_value_heads": attention.kv_heads,
    "head_dim": attention.head_dim,
    "hidden_act": "silu",
    "rope_theta": plain_theta(attention),
    "attention_bias": attention.qkv_bias,
    "use_sliding_window": attention.window is not None,
    "sliding_window": attention.window,
    "max_window_layers": 0,
    "num_experts": experts.experts,
    "num_experts_per_tok": experts.top_k,
    "moe_intermediate_size": experts.expert_width,
    "norm_topk_prob": experts.router.renormalize,
    "intermediate_size": next(iter(dense)).width if dense else experts.expert_width,
    "mlp_only_layers": [index for index in range(len(model.layers)) if index not in model.moe_layers],
    "decoder_sparse_step": 1,
    "rms_norm_eps": model.norm_eps,
    "tie_word_embeddings": model.tied,
    "max_position_embeddings": model.context,
    "eos_token_id": list(model.stop_ids) or None,
  }
  if spec(written) != model:
    raise ValueError(f"a Qwen3-MoE configuration cannot say all of {model!r}")
  return written


def _window(fields: Fields) -> int | None:
  if not fields.flag("use_sliding_window", False):
    return None
  # transformers 4.51 slid the window from this layer on, transformers 5 does in every layer: do not guess.
  fields.only("max_window_layers", (None, 0))
  return fields.maybe_whole("sliding_window", 4096)


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    return expert_rules(ours, theirs, layer.ffn, found)

  return decoder_rules(spec, ffn)


FAMILY = Family(name="qwen3_moe", spec=spec, rules=rules, config=config)
