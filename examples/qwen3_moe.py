"""Qwen3-MoE: many small experts, renormalised weights, a norm on each head's queries and keys.

hf download Qwen/Qwen3-30B-A3B --local-dir MODEL
python -m examples.qwen3_moe MODEL
python -m examples.qwen3_moe --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The router's weights, and attention's norms."""
  attention = attention_spec(params)
  yield router_line(params)
  yield f"queries and keys are normed a {attention.qk_norm}"
  yield f"{attention.heads} query heads share {attention.kv_heads} heads of keys and values"


if __name__ == "__main__":
  compare("qwen3_moe", policy="lynx:alpha=3,beta=2", particular=particular)
