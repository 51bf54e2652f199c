"""A Llama whose MLPs were cut into an always-active part and experts: a form of this library's own.

make moefy                                # cuts SmolLM2-135M; only packages are downloaded
python -m examples.moefied_llama .work/smollm2_moe
python -m examples.moefied_llama --tiny          # random weights of the same form, no download
"""

from collections.abc import Iterator

import lynx_jax
from examples.family import compare, weights_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """The always-active part, and weights of exactly one."""
  moe = params.spec.moe_specs[0]
  assert moe.shared is not None
  yield f"{moe.shared.width} neurons always run, {moe.experts} experts of {moe.expert_width} are chosen from"
  yield f"a chosen expert weighs one, so that all of them together are the dense network: {weights_line(params)}"
  yield "its router is nearly even, which leaves every policy little to go by"


if __name__ == "__main__":
  compare("moefied_llama", policy="auto", particular=particular)
