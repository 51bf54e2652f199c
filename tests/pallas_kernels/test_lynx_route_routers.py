"""`lynx_route` under every router that is more than a softmax: each implementation agrees with plain JAX."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import lynx_route
from pallas_kernels.lynx_route import OEA, Auto, Budget, Lynx, MassFloor, Prune, Router, TopK
from tests.pallas_kernels.test_lynx_route import IMPLEMENTATIONS, batches, check, choose, names_here

# Rows, experts, experts a row, the router, whether it has a selection bias. Groups are not always a power of two, nor
# are the experts of one; 70 rows are more than one block.
ROUTERS = {
  "sigmoid": (9, 12, 3, Router("sigmoid", scale=2.5), False),
  "sigmoid, biased": (9, 12, 3, Router("sigmoid"), True),
  "Llama-4": (16, 16, 1, Router("sigmoid", renormalize=False), False),
  "DeepSeek-V3": (16, 32, 4, Router("sigmoid", scale=2.5, groups=8, groups_kept=4, group_score="top2_sum"), True),
  "DeepSeek-V3, no bias": (9, 24, 3, Router("sigmoid", groups=4, groups_kept=2, group_score="top2_sum"), False),
  "DeepSeek-V2": (16, 40, 4, Router(renormalize=False, scale=16.0, groups=8, groups_kept=3), False),
  "three groups": (1, 15, 2, Router(groups=3, groups_kept=1, group_score="top2_sum"), False),
  "Phi-3.5": (16, 16, 2, Router("sparsemixer", renormalize=False), False),
  "sparsemixer of five": (7, 5, 3, Router("sparsemixer", renormalize=False, scale=2.0), False),
  "a dense network in parts": (7, 6, 3, Router(unit_weights=True), False),
  "scaled softmax": (7, 6, 3, Router(scale=0.5), False),
  "more than a block": (70, 100, 5, Router("sigmoid", groups=5, groups_kept=2, group_score="top2_sum"), True),
}
POLICIES = {
  "topk": TopK(),
  "prune": Prune(1),
  "lynx": Lynx(3, 2),
  "lynx without a lowest bin": Lynx(1, None),
  "oea": OEA(1),
  "mass_floor": MassFloor(0.7),
  "auto": Auto(),
  "budget": Budget(TopK(), 7),
}
# Each policy meets each kind of router; not every pair, as a test is mostly compilation.
CASES = {
  "sigmoid": ("topk", "prune", "auto"),
  "sigmoid, biased": ("lynx",),
  "Llama-4": ("topk", "lynx", "oea"),
  "DeepSeek-V3": ("topk", "lynx", "oea", "mass_floor", "auto", "budget"),
  "DeepSeek-V3, no bias": ("lynx",),
  "DeepSeek-V2": ("topk", "lynx without a lowest bin", "oea", "auto", "budget"),
  "three groups": ("prune",),
  "Phi-3.5": ("topk", "lynx", "mass_floor"),
  "sparsemixer of five": ("prune", "lynx"),
  "a dense network in parts": ("topk", "lynx"),
  "scaled softmax": ("topk", "prune"),
  "more than a block": ("lynx",),
}


@pytest.mark.parametrize(("name", "policy"), [(name, policy) for name, of in CASES.items() for policy in of])
@given(data=st.data())
@settings(max_examples=8)
def test_equals_plain_jax(name, policy, data):
  rows, experts, top_k, router, biased = ROUTERS[name]
  logits, valid = data.draw(batches(rows, experts))
  if router.scoring == "sparsemixer":
    # It looks at experts within 2 % of each other: some are, far from zero.
    logits += np.float32(data.draw(st.sampled_from([0, 40])))
  bias = np.random.default_rng(experts).normal(0, 0.3, experts).astype(np.float32).round(2) if biased else None
  greedy = router.scoring == "sigmoid" and policy in ("mass_floor", "auto", "budget")
  for implementation in names_here(POLICIES[policy]):
    # Gates of 1 but for the last bit make greedy choices ties but for that, and native exponentials are not XLA's:
    # there the test below judges.
    scores = logits * np.float32(0.1) if greedy and implementation == "cpu" else logits
    check(implementation, (rows, experts, top_k, POLICIES[policy], router), scores, valid, bias)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(data=st.data())
@settings(max_examples=12)
def test_what_is_left_out_was_not_worth_its_price_where_gates_saturate(implementation, data):
  logits, valid = data.draw(batches(9, 12))
  given = {"policy": Auto(), "router": Router("sigmoid"), "valid": jnp.asarray(valid)}
  active = np.asarray(choose(jnp.asarray(logits), 3, implementation=implementation, **given).active)
  gates = np.exp(-np.logaddexp(0.0, -np.clip(logits[valid].astype(np.float64), -80, 80)))
  own = np.argsort(-gates, axis=1, kind="stable")[:, :3]
  weights = gates / np.take_along_axis(gates, own, axis=1).sum(axis=1, keepdims=True)
  is_own = (own[:, :, None] == np.arange(12)).any(axis=1)

  def loss(kept):
    retained = np.sort(np.where(kept, weights, 0.0), axis=1)[:, -3:].sum(axis=1)
    return (np.where(is_own & ~kept, weights, 0.0) ** 2).sum() + ((1.0 - retained) ** 2).sum()

  price = 0.5 * (np.where(is_own, weights, 0.0) ** 2).sum() / max(1, is_own.any(axis=0).sum())
  for expert in np.flatnonzero(~active):
    assert loss(active) - loss(active | (np.arange(12) == expert)) <= price + 1e-4


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sigmoids_that_nearly_vanish_weigh_what_the_model_says(implementation):
  logits = np.array([[-46.0, -47.0, -60.0, -80.0], [-500.0] * 4, [1.0, 0.0, -1.0, -2.0]], np.float32)
  for policy in ("topk", "prune", "lynx"):
    check(implementation, (3, 4, 2, POLICIES[policy], Router("sigmoid")), logits, np.ones(3, bool))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_experts_of_other_groups_only_fill_a_row(implementation):
  # The first row's group is (0, 1), the others' is (4, 5): kept are 0 and 5, so 5, of another group, fills a row.
  logits = np.array([[9, 1, 3, 2, 7, 8, 0, 0]] + [[0, 0, 0, 0, 8, 9, 0, 0]] * 3, np.float32)
  router = Router(groups=4, groups_kept=1)
  chosen = lynx_route(jnp.asarray(logits), 2, policy=OEA(1), router=router, implementation=implementation)
  assert chosen.ids[0].tolist() == [0, 5]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("policy", ["topk", "oea"])
def test_masked_experts_of_own_groups(implementation, policy):
  logits = np.random.default_rng(0).normal(size=(6, 12)).astype(np.float32)
  logits[:, :5] = -np.inf
  router = Router(groups=3, groups_kept=1)
  logits[:2, 3] = 20.0
  check(implementation, (6, 12, 3, POLICIES[policy], router), logits, np.ones(6, bool))


def test_routers_that_cannot_be_are_named():
  with pytest.raises(ValueError, match=r"Router.groups is 3: expected a number that cuts 8 experts into groups"):
    lynx_route(jnp.zeros((2, 8)), 2, router=Router(groups=3))
  with pytest.raises(
    ValueError,
    match=r"Router.groups_kept is 1: expected enough groups for the 3 experts that a token runs; these hold 2",
  ):
    lynx_route(jnp.zeros((2, 8)), 3, router=Router(groups=4))
  with pytest.raises(ValueError, match=r"selection_bias is .*: expected None with .*it goes with sigmoid gates"):
    lynx_route(jnp.zeros((2, 8)), 2, selection_bias=jnp.zeros(8))
  with pytest.raises(ValueError, match=r"Router.scoring is 'tanh': expected one of"):
    Router("tanh")
  with pytest.raises(ValueError, match=r"Router.groups_kept is 3: expected a whole number from 1 to 2"):
    Router(groups=2, groups_kept=3)
  with pytest.raises(ValueError, match="scoring='sparsemixer', which has weights of its own and no groups"):
    Router("sparsemixer")


def test_groups_that_take_too_many_places_are_named():
  with pytest.raises(NotImplementedError, match=r"not 4 and 495 in 33 groups, which take the place of 1024"):
    lynx_route(jnp.zeros((4, 495)), 2, router=Router(groups=33), implementation="pallas")
