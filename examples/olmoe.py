"""OLMoE: 64 small experts; weights are not renormalised, so an unsure router gives a layer less say.

hf download allenai/OLMoE-1B-7B-0924 --local-dir MODEL
python -m examples.olmoe MODEL
python -m examples.olmoe --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The router's weights, the norm over whole projections, and clipping."""
  attention = attention_spec(params)
  yield router_line(params)
  yield f"queries and keys are normed over the whole {attention.qk_norm}, not head by head"
  yield f"queries, keys and values are {'not clipped' if attention.clip is None else f'clipped to {attention.clip:g}'}"


if __name__ == "__main__":
  compare("olmoe", policy="lynx:alpha=3,beta=2", particular=particular)
