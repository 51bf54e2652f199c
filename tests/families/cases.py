"""Small random models of every family, built and written by transformers: the judges of our own forward pass.

Each case is one setting of a family's flags. Its directory is written once a session; weights are large,
which keeps routing and greedy choices far from ties.
"""

import atexit
import copy
import dataclasses
import functools
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

# Its bars would land in the captured output of whichever test comes first.
transformers.utils.logging.disable_progress_bar()

VOCAB = 101

_CLASSES = {
  "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
  "olmoe": (transformers.OlmoeConfig, transformers.OlmoeForCausalLM),
  "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
}
_COMMON = {
  "vocab_size": VOCAB,
  "hidden_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 256,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """One configuration: its family, what it exercises (`name`), and its fields."""

  family: str
  name: str
  fields: dict[str, Any]

  def __str__(self) -> str:
    return f"{self.family}-{self.name}"

  def config(self) -> Any:
    return _CLASSES[self.family][0](**_COMMON | self.fields)


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
CASES = (*MIXTRAL, *OLMOE, *QWEN3_MOE)


@functools.cache
def reference(case: Case) -> Any:
  """The transformers model of a case, in float32, with its random weights."""
  model = _CLASSES[case.family][1](case.config()).eval()
  generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      drawn = torch.randn(parameter.shape, generator=generator)
      if "norm" in name:
        parameter.copy_(1 + 0.3 * drawn)
      else:
        parameter.copy_((1.0 if "embed" in name else 0.2) * drawn)
  return model


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
  copy.deepcopy(reference(case)).to(getattr(torch, dtype)).save_pretrained(path)
  return path


@functools.cache
def _root() -> Path:
  root = tempfile.mkdtemp(prefix="lynx_jax_checkpoints_")
  atexit.register(shutil.rmtree, root, ignore_errors=True)
  return Path(root)
