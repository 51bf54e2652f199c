"""Phi-3.5-MoE: the SparseMixer router, and LongRoPE, whose factors change with the length of the text.

hf download microsoft/Phi-3.5-MoE-instruct --local-dir MODEL
python -m examples.phimoe MODEL
python -m examples.phimoe --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import attention_spec, compare, weights_line
from lynx_jax.models.rope import LongScaling


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """SparseMixer's weights, and LongRoPE's two sets of factors."""
  yield f"SparseMixer picks expert after expert; each weighs its share among near rivals: {weights_line(params)}"
  rope = attention_spec(params).rope
  assert rope is not None
  scaling = rope.scaling
  if isinstance(scaling, LongScaling):
    short, long = scaling.short_factors[-1], scaling.long_factors[-1]
    yield f"LongRoPE stretches the slowest frequency {short:.2f} times in short texts and {long:.2f} times in long ones"
  yield f"norms are {params.spec.norm} norms with biases, and the output head has a bias: {params.spec.head_bias}"


if __name__ == "__main__":
  compare("phimoe", policy="lynx:alpha=0.7,beta=1", particular=particular)
