"""Every router under every kind of policy: the slow statement of the rules, and what holds on any batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.routing import (
  OEA,
  Auto,
  Budget,
  CountVote,
  Lynx,
  MassFloor,
  Prune,
  Router,
  TopK,
  XShare,
  lynx_route,
  routing_stats,
)
from pallas_kernels.lynx_route import score_rows
from tests.routing import oracle
from tests.routing.routing_cases import (
  BIAS,
  EXPERTS,
  ROUTERS,
  ROWS,
  assert_same_bits,
  logit_batches,
  normal_logits,
  route_by,
  row_masks,
  some_rows,
)

POLICIES = (
  TopK(),
  Prune(1),
  Lynx(3, 2),
  Lynx(1, None),
  CountVote(4),
  OEA(1),
  XShare(4),
  MassFloor(0.8),
  Auto(),
  Budget(Lynx(3, 2), 4),
)
every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
every_router = pytest.mark.parametrize("name", ROUTERS)


def bias_of(router):
  return BIAS if router.scoring == "sigmoid" and router.groups > 1 else None


@every_policy
@every_router
def test_equals_the_slow_statement(name, policy):
  router, top_k = ROUTERS[name]
  fewer = 0
  for seed in range(12):
    # SparseMixer looks at experts within 2 % of each other, so some of these are.
    logits = normal_logits(seed, ROWS, EXPERTS) + (8 if seed % 2 else 0)
    valid = some_rows(seed, ROWS, ROWS - seed % 4)
    routing = route_by(logits, valid, BIAS, policy=policy, router=router, top_k=top_k)
    ids, weights, active = oracle.route_by(logits, top_k, policy, router, bias_of(router), valid)
    np.testing.assert_array_equal(routing.ids, ids)
    np.testing.assert_array_equal(routing.active, active)
    np.testing.assert_allclose(routing.weights, weights, rtol=2e-5, atol=1e-7)
    own = oracle.route_by(logits, top_k, TopK(), router, bias_of(router), valid)
    fewer += active.sum() < own[2].sum()
  assert fewer or policy != CountVote(4), "no batch tried the remap"


@every_policy
@every_router
@settings(max_examples=12)
@given(logits=logit_batches, valid=row_masks, order=st.permutations(range(ROWS)))
def test_what_holds_of_any_batch(name, policy, logits, valid, order):
  router, top_k = ROUTERS[name]
  rule = {"policy": policy, "router": router, "top_k": top_k}
  routing = route_by(logits, valid, BIAS, **rule)
  own = route_by(logits, valid, BIAS, **{**rule, "policy": TopK()})
  ids, weights = np.asarray(routing.ids), np.asarray(routing.weights)

  assert all(len(set(row)) == len(row) for row in ids.tolist())
  assert set(np.flatnonzero(routing.active)) == set(ids[valid].flat)
  assert np.isfinite(weights).all()
  assert (weights >= 0).all()
  if router.unit_weights:
    assert (weights[valid] == 1).all()
  else:
    np.testing.assert_allclose(weights.sum(axis=1), own.weights.sum(axis=1), rtol=1e-5)
  assert routing.active.sum() <= own.active.sum()
  if policy.batch_aware and (routing.active.sum() == own.active.sum() or valid.sum() < 2):
    assert_same_bits(routing, own)

  spoiled = np.where(valid[:, None], logits, np.float32("nan"))
  assert_same_bits(routing, route_by(spoiled, valid, BIAS, **rule))
  moved = route_by(logits[order], valid[order], BIAS, **rule)
  np.testing.assert_array_equal(ids[order], moved.ids)
  np.testing.assert_array_equal(weights[order], moved.weights)


@every_router
@settings(max_examples=25)
@given(logits=logit_batches, valid=row_masks)
def test_mass_floor_holds_and_what_is_retained_is_a_share(name, logits, valid):
  router, top_k = ROUTERS[name]
  routing = route_by(logits, valid, BIAS, policy=MassFloor(0.8), router=router, top_k=top_k)
  bias = bias_of(router)
  rule = {"router": router, "selection_bias": None if bias is None else jnp.asarray(bias)}
  retained = np.asarray(routing_stats(jnp.asarray(logits), top_k, routing, jnp.asarray(valid), **rule).retained)
  assert retained.min() >= 0.8 - 1e-5
  assert retained.max() <= 1 + 1e-6


@pytest.mark.parametrize("name", ["DeepSeek-V2", "DeepSeek-V3"])
@settings(max_examples=25)
@given(logits=logit_batches)
def test_under_lynx_no_row_leaves_its_groups(name, logits):
  router, top_k = ROUTERS[name]
  valid, bias = np.ones(ROWS, bool), bias_of(router)
  routing = route_by(logits, valid, BIAS, policy=Lynx(3, 2), router=router, top_k=top_k)
  for row, ids in zip(logits, routing.ids, strict=True):
    allowed = np.isfinite(oracle.own_rule(row, top_k, router, bias).bins_of)
    assert allowed[ids].all()


def test_experts_of_other_groups_only_fill_a_row():
  router = Router(groups=4, groups_kept=1)
  # The first row's group is (0, 1), the others' is (4, 5). Kept are 0, 4 and 5, so 5, of another group, fills a row.
  logits = jnp.array([[9.0, 1.0, 3.0, 2.0, 7.0, 8.0, 0.0, 0.0]] + [[0.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 8.0]] * 3)
  routing = lynx_route(logits, 2, policy=Budget(TopK(), 3), router=router)
  assert routing.ids[0].tolist() == [0, 5]
  assert routing.ids[1:].tolist() == [[5, 4]] * 3


def test_a_bias_that_all_experts_have_changes_nothing():
  router, top_k = ROUTERS["DeepSeek-V3"]
  logits, valid = normal_logits(3, ROWS, EXPERTS), np.ones(ROWS, bool)
  for policy in (TopK(), Lynx(3, 2), Auto()):
    rule = {"policy": policy, "router": router, "top_k": top_k}
    none = lynx_route(jnp.asarray(logits), top_k, policy=policy, router=router, implementation="reference")
    shifted = route_by(logits, valid, np.full(EXPERTS, 0.5, np.float32), **rule)
    np.testing.assert_array_equal(none.ids, shifted.ids)
    np.testing.assert_allclose(none.weights, shifted.weights, rtol=1e-6)


def test_bins_of_biased_experts_follow_the_choice_from_the_first_experts_own_logit():
  logits = jnp.asarray(normal_logits(1, ROWS, EXPERTS))
  rule = (logits, 2, 2, jnp.ones(ROWS, bool), Router(scoring="sigmoid"))
  plain, biased = score_rows(*rule), score_rows(*rule, jnp.asarray(BIAS))
  np.testing.assert_array_equal(jnp.argsort(-biased.logits, axis=1)[:, :4], jnp.argsort(-biased.choice, axis=1)[:, :4])
  first = biased.ids[:, :1]
  tops = [jnp.take_along_axis(scores.logits, first, axis=1) for scores in (plain, biased)]
  np.testing.assert_allclose(*tops, rtol=1e-5)


def test_sigmoids_that_all_vanish_give_finite_weights():
  router = Router(scoring="sigmoid")
  routing = lynx_route(jnp.full((4, 8), -500.0), 2, router=router, policy=Lynx(3, 2))
  assert jnp.isfinite(routing.weights).all()
