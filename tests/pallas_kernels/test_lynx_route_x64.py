"""Routing under `jax_enable_x64`: every number in a kernel keeps its own width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.lynx_route import OEA, Auto, CountVote, Lynx, MassFloor, Router, TopK, lynx_route_tiles

DEEPSEEK = Router("sigmoid", groups=4, groups_kept=2, group_score="top2_sum")


@pytest.mark.parametrize("implementation", ["pallas", "cpu", "reference"])
@pytest.mark.parametrize(
  ("policy", "router"),
  [
    (TopK(), Router("sparsemixer", renormalize=False)),
    (Lynx(3, 2), DEEPSEEK),
    (OEA(1), Router()),
    (MassFloor(0.7), Router()),
    (Auto(), Router()),
    (CountVote(4), Router()),
  ],
  ids=repr,
)
def test_it_gives_the_same_as_without(implementation, policy, router):
  if isinstance(policy, CountVote):
    implementation = None
  logits = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
  bias = np.linspace(-0.2, 0.2, 8, dtype=np.float32) if router.scoring == "sigmoid" else None

  def route():
    given = None if bias is None else jnp.asarray(bias)
    options = {"policy": policy, "router": router, "selection_bias": given}
    return lynx_route_tiles(jnp.asarray(logits), 2, implementation=implementation, **options)

  plain = route()
  with jax.enable_x64(True):
    wide = route()
  for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(wide), strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)
