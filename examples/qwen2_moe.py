"""Qwen2-MoE: routed experts beside a shared one, which a learned gate scales and every step reads.

hf download Qwen/Qwen1.5-MoE-A2.7B --local-dir MODEL
python -m examples.qwen2_moe MODEL
python -m examples.qwen2_moe --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import compare, router_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The router's weights, which do not sum to one, and the shared expert."""
  moe = params.spec.moe_specs[0]
  assert moe.shared is not None
  yield router_line(params)
  times = moe.shared.width / moe.expert_width
  yield f"a shared expert as wide as {times:g} routed ones is read in every step, under any policy"


if __name__ == "__main__":
  compare("qwen2_moe", policy="lynx:alpha=3,beta=4", particular=particular)
