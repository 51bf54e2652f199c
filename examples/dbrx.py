"""DBRX: queries, keys and values are one fused tensor in the files, and are clipped; norms are LayerNorms.

hf download databricks/dbrx-base --local-dir MODEL
python -m examples.dbrx MODEL
python -m examples.dbrx --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The fused projection, clipping, and the norm."""
  attention = attention_spec(params)
  rows = (attention.heads + 2 * attention.kv_heads) * attention.head_dim
  yield f"the file's Wqkv has {rows} rows: {attention.heads} query heads, {attention.kv_heads} of keys and of values"
  yield f"queries, keys and values are clipped to {attention.clip:g}; norms are {params.spec.norm} norms"
  yield router_line(params)


if __name__ == "__main__":
  compare("dbrx", policy="lynx:alpha=1,beta=2", particular=particular)
