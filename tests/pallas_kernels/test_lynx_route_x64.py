"""Routing under `jax_enable_x64`: every number in a kernel keeps its own width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.lynx_route import OEA, Auto, CountVote, Lynx, MassFloor, Router, TopK, lynx_route_tiles

DEEPSEEK = Router("sigmoid", groups=4, groups_kept=2, group_score="top2_sum")


TERMS = {
  "own": np.arange(5) == 1,
  "weight": np.linspace(0.0, 1.0, 5, dtype=np.float32),
  "cost": np.linspace(0.2, 1.0, 8, dtype=np.float32),
  "limit": np.float32(3.5),
}


@pytest.mark.parametrize("implementation", ["pallas", "cpu", "reference"])
@pytest.mark.parametrize(
  ("policy", "router", "terms"),
  [
    (TopK(), Router("sparsemixer", renormalize=False), {}),
    pytest.param(Lynx(3, 2), DEEPSEEK, {}, marks=pytest.mark.slow),
    (Lynx(3, 2), DEEPSEEK, TERMS),
    pytest.param(OEA(1), Router(), {}, marks=pytest.mark.slow),
    pytest.param(MassFloor(0.7), Router(), {}, marks=pytest.mark.slow),
    pytest.param(Auto(), Router(), {}, marks=pytest.mark.slow),
    (Auto(), Router(), TERMS),
  ],
  ids=repr,
)
def test_it_gives_the_same_as_without(implementation, policy, router, terms):
  same_with_and_without(implementation, policy, router, terms)


def test_a_policy_that_only_plain_jax_has_gives_the_same_as_without():
  same_with_and_without(None, CountVote(4), Router(), {})


def same_with_and_without(implementation, policy, router, terms):
  logits = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
  bias = np.linspace(-0.2, 0.2, 8, dtype=np.float32) if router.scoring == "sigmoid" else None

  def route():
    given = None if bias is None else jnp.asarray(bias)
    options = {"policy": policy, "router": router, "selection_bias": given}
    options |= {name: jnp.asarray(term) for name, term in terms.items()}
    return lynx_route_tiles(jnp.asarray(logits), 2, implementation=implementation, **options)

  plain = route()
  with jax.enable_x64(True):
    wide = route()
  for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(wide), strict=True):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)
