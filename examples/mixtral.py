"""Mixtral: few, wide experts, whose two weights sum to one; attention may have a window.

hf download mistralai/Mixtral-8x7B-v0.1 --local-dir MODEL
python -m examples.mixtral MODEL
python -m examples.mixtral --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The softmax router, its renormalised weights, and the window."""
  yield router_line(params)
  window = attention_spec(params).window
  yield f"attention sees {'every position before' if window is None else f'the last {window} positions'}"


if __name__ == "__main__":
  compare("mixtral", policy="lynx:alpha=0.7,beta=1", particular=particular)
