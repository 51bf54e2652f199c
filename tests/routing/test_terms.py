"""Rows that run their own experts, rows with more or less say, experts that cost more, and a limit that is data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, Router, TopK, XShare, lynx_route
from tests.routing import oracle
from tests.routing.routing_cases import ROUTERS, assert_same_bits, normal_logits

ROWS, EXPERTS, TOP_K = 10, 16, 3
BATCH_AWARE = (
  Lynx(3, 2),
  Lynx(1, None),
  CountVote(6),
  OEA(1),
  XShare(7),
  MassFloor(0.7),
  Auto(),
  Budget(TopK(), 6),
  Budget(Lynx(3, 2), 5),
)
every_policy = pytest.mark.parametrize("policy", BATCH_AWARE, ids=repr)

route = jax.jit(
  lynx_route,
  static_argnums=1,
  static_argnames=("policy", "router", "implementation"),
  compiler_options={"xla_backend_optimization_level": 0},
)


def batch(seed):
  """Logits of rows that agree a little, and which rows are valid and which run their own."""
  random = np.random.default_rng(seed)
  logits = (normal_logits(seed, ROWS, EXPERTS) + np.linspace(1, -1, EXPERTS)).astype(np.float32)
  return logits, random.random(ROWS) < 0.9, random.random(ROWS) < 0.3


def terms(seed):
  """Weights and costs that are exact in fixed point."""
  random = np.random.default_rng(seed)
  weight = random.choice([0.0, 0.25, 1.0, 4.0], ROWS).astype(np.float32)
  return {"weight": weight, "cost": random.choice([0.125, 0.5, 1.0], EXPERTS).astype(np.float32)}


def routed(logits, policy, *, router=None, **given):
  given = {name: value if value is None else jnp.asarray(value) for name, value in given.items()}
  return route(
    jnp.asarray(logits), TOP_K, policy=policy, router=router or Router(), implementation="reference", **given
  )


@pytest.mark.parametrize("names", ["own", "weight", "cost", "limit", "own weight cost limit"])
@pytest.mark.parametrize("policy", [*BATCH_AWARE, TopK()], ids=repr)
def test_equals_the_slow_statement(policy, names):
  for seed in range(5):
    logits, valid, own = batch(seed)
    every = {"own": own, "limit": np.int32(5 + seed), **terms(seed)}
    given = {name: every[name] for name in names.split()}
    got = routed(logits, policy, valid=valid, **given)
    ids, weights, active = oracle.route_by(logits, TOP_K, policy, Router(), None, valid, **given)
    np.testing.assert_array_equal(got.active, active)
    np.testing.assert_array_equal(got.ids, ids)
    np.testing.assert_allclose(got.weights, weights, rtol=2e-5, atol=1e-7)


@every_policy
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), coarse=st.booleans())
def test_terms_that_are_all_alike_change_nothing(policy, seed, coarse):
  logits, valid, _ = batch(seed)
  logits = np.round(logits) if coarse else logits
  alike = {
    "own": np.zeros(ROWS, bool),
    "weight": np.full(ROWS, 0.3, np.float32),
    "cost": np.full(EXPERTS, 0.02, np.float32),
    "limit": np.int32(EXPERTS),
  }
  assert_same_bits(routed(logits, policy, valid=valid), routed(logits, policy, valid=valid, **alike))


@every_policy
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_own_rows_run_the_models_own_and_nothing_more_is_read(policy, seed):
  logits, valid, own = batch(seed)
  unchanged = routed(logits, TopK(), valid=valid)
  routing = routed(logits, policy, valid=valid, own=own)
  kept = valid & own
  np.testing.assert_array_equal(np.asarray(routing.ids)[kept], np.asarray(unchanged.ids)[kept])
  np.testing.assert_array_equal(np.asarray(routing.weights)[kept], np.asarray(unchanged.weights)[kept])
  assert routing.active.sum() <= unchanged.active.sum()
  assert_same_bits(routed(logits, policy, valid=valid, own=np.ones(ROWS, bool)), unchanged)


@every_policy
def test_where_own_rows_read_everything_the_others_run_their_own(policy):
  everything = np.eye(EXPERTS, dtype=np.float32)[::3] * 9 + np.eye(EXPERTS, k=1, dtype=np.float32)[::3] * 8
  everything += np.eye(EXPERTS, k=2, dtype=np.float32)[::3] * 7
  logits = np.concatenate([everything, normal_logits(0, ROWS, EXPERTS)])
  own = np.arange(len(logits)) < len(everything)
  unchanged = routed(logits, TopK())
  if unchanged.active.sum() < EXPERTS:
    logits[0, [EXPERTS - 1]] = 10.0
  assert_same_bits(routed(logits, policy, own=own), routed(logits, TopK()))


@every_policy
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_row_without_weight_has_no_say(policy, seed):
  logits, valid, _ = batch(seed)
  weight = np.ones(ROWS, np.float32)
  weight[: ROWS // 2] = 0.0
  silent = routed(logits, policy, valid=valid, weight=weight)
  changed = logits.copy()
  changed[: ROWS // 2] = np.flip(logits[: ROWS // 2], axis=1)
  other = routed(changed, policy, valid=valid, weight=weight)
  # Where neither falls back to the model's own routing, all rows choose from the set that the others keep alone.
  alone = routed(logits, policy, valid=valid & (weight > 0))
  fallen = [
    routed(each, TopK(), valid=valid).active.sum() <= result.active.sum()
    for each, result in ((logits, silent), (changed, other), (logits, alone))
  ]
  if not any(fallen) and alone.active.sum() >= TOP_K:
    speaking = valid & (weight > 0)
    np.testing.assert_array_equal(np.asarray(silent.ids)[speaking], np.asarray(other.ids)[speaking])
  assert silent.active.sum() <= routed(logits, TopK(), valid=valid).active.sum()


@every_policy
@settings(max_examples=10)
@given(seed=st.integers(0, 10**6), order=st.permutations(range(ROWS)))
def test_the_order_of_rows_does_not_matter(policy, seed, order):
  logits, valid, own = batch(seed)
  given = {**terms(seed), "limit": np.int32(9)}
  weight = given.pop("weight")
  one = routed(logits, policy, valid=valid, own=own, weight=weight, **given)
  other = routed(logits[order], policy, valid=valid[order], own=own[order], weight=weight[order], **given)
  np.testing.assert_array_equal(np.asarray(one.ids)[order], other.ids)
  np.testing.assert_array_equal(np.asarray(one.weights)[order], other.weights)


@pytest.mark.parametrize("policy", [TopK(), Lynx(3, 2), Auto(), CountVote(9)], ids=repr)
@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), limit=st.integers(0, EXPERTS + 3), fraction=st.sampled_from([0.0, 0.5]))
def test_a_limit_is_kept_and_is_data(policy, seed, limit, fraction):
  logits, valid, _ = batch(seed)
  routing = routed(logits, policy, valid=valid, limit=np.float32(limit + fraction))
  assert routing.active.sum() <= max(limit, TOP_K)
  free = routed(logits, policy, valid=valid)
  if free.active.sum() < limit:
    assert_same_bits(routing, free)
  if TOP_K <= limit <= EXPERTS:
    assert_same_bits(routing, routed(logits, Budget(policy, limit), valid=valid))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_cheap_experts_are_preferred_and_cost_is_saved(seed):
  logits, valid, _ = batch(seed)
  cost = np.where(np.arange(EXPERTS) % 2, 1.0, 0.02).astype(np.float32)
  for policy in (Auto(), MassFloor(0.8), XShare(6)):
    with_cost, unchanged = (routed(logits, each, valid=valid, cost=cost) for each in (policy, TopK()))
    assert cost[np.asarray(with_cost.active)].sum() <= cost[np.asarray(unchanged.active)].sum() + 1e-5


@pytest.mark.parametrize("name", ["DeepSeek-V3", "Phi-3.5", "a dense network in parts"])
def test_own_rows_under_any_router(name):
  router, _ = ROUTERS[name]
  logits, valid, own = batch(3)
  bias = np.linspace(-0.2, 0.2, EXPERTS, dtype=np.float32) if router.groups > 1 else None
  given = {"valid": valid, "own": own, "selection_bias": bias}
  got = routed(logits, Lynx(3, 2), router=router, **given)
  ids, weights, active = oracle.route_by(logits, TOP_K, Lynx(3, 2), router, bias, valid, own=own)
  np.testing.assert_array_equal(got.ids, ids)
  np.testing.assert_array_equal(got.active, active)
  np.testing.assert_allclose(got.weights, weights, rtol=2e-5, atol=1e-7)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"own": jnp.ones(3, bool)}, r"own is bool\[3\]: expected bool\[2\], one flag for each row"),
    ({"weight": jnp.ones(2, jnp.int32)}, r"weight is int32\[2\]: expected float32\[2\]"),
    ({"cost": jnp.ones(2)}, r"cost is float32\[2\]: expected float32\[8\], one number for each expert"),
    ({"limit": 3}, r"limit is 3: expected an int32 or float32 scalar"),
    ({"own": jnp.ones(2, bool), "policy": Prune(1)}, r"own is bool\[2\]: expected None under Prune\(k0=1\); own rows"),
  ],
)
def test_errors_name_the_argument(given, message):
  with pytest.raises(ValueError, match=message):
    lynx_route(jnp.zeros((2, 8)), 2, **given)
