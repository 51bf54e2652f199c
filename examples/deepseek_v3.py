"""DeepSeek-V3: sigmoid gates, chosen with a bias and by groups, weighed without the bias.

    hf download deepseek-ai/DeepSeek-V3 --local-dir MODEL
    python -m examples.deepseek_v3 MODEL
    python -m examples.deepseek_v3 --tiny          # random weights of the same form, no download

The bias balances the load while the model trains, and decides only who is chosen. The released files are fp8 with block
scales, which `load` widens.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

import lynx_jax
from examples.family import compare, weights_line


def particular(params: lynx_jax.Params) -> Iterator[str]:
  """How groups and the selection bias decide one token's experts."""
  moe = params.spec.moe_specs[0]
  router, size = moe.router, moe.experts // moe.router.groups
  yield f"sigmoid gates, divided by their sum, times {router.scale:g}; one token's: {weights_line(params)}"
  logits = 2.0 * jax.random.normal(jax.random.key(0), (1, moe.experts))
  for name, bias in (("no bias", 0.0), ("a bias of 1 on the last group", 1.0)):
    bias_E = jnp.zeros(moe.experts).at[-size:].set(bias)
    chosen = lynx_jax.lynx_route(logits, moe.top_k, router=router, selection_bias=bias_E).ids[0]
    groups = sorted({int(expert) // size for expert in chosen})
    yield f"with {name} a token uses {router.groups_kept} of {router.groups} groups: {', '.join(map(str, groups))}"


if __name__ == "__main__":
  compare("deepseek_v3", policy="auto", particular=particular)
