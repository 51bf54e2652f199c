"""What holds of every policy on any batch, whatever its rule."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, Prune, TopK, XShare, routing_stats
from tests.routing.routing_cases import (
  BATCH_AWARE,
  EXPERTS,
  POLICIES,
  ROWS,
  TOP_K,
  assert_same_bits,
  logit_batches,
  normal_logits,
  route_both,
  row_masks,
)

every_policy = pytest.mark.parametrize("policy", POLICIES, ids=repr)
batch_aware_policy = pytest.mark.parametrize("policy", BATCH_AWARE, ids=repr)
few_examples = settings(max_examples=20)


def own_mass(logits):
  """Softmax mass of each row's own top k, in float64."""
  powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
  probs = powers / powers.sum(axis=1, keepdims=True)
  return np.sort(probs, axis=1)[:, -TOP_K:].sum(axis=1)


@every_policy
@few_examples
@given(logits=logit_batches, valid=row_masks)
def test_rows_run_distinct_active_experts(policy, logits, valid):
  for routing in route_both(logits, valid, policy=policy):
    ids, active = np.asarray(routing.ids), np.asarray(routing.active)
    assert ids.shape == (ROWS, policy.experts_per_token(TOP_K))
    assert all(len(set(row)) == len(row) for row in ids.tolist())
    assert ids.min() >= 0
    assert ids.max() < EXPERTS
    assert set(np.flatnonzero(active)) == set(ids[valid].flat)
    if valid.any():
      assert active[ids[~valid]].all()
    stats = routing_stats(jnp.asarray(logits), TOP_K, routing, jnp.asarray(valid))
    assert routing.active.sum() == stats.experts <= stats.own_experts


@every_policy
@few_examples
@given(logits=logit_batches, valid=row_masks)
def test_weights_sum_to_what_the_model_gives(policy, logits, valid):
  renormalized, mass_kept = route_both(logits, valid, policy=policy)
  for routing, totals in ((renormalized, np.ones(ROWS)), (mass_kept, own_mass(logits))):
    weights = np.asarray(routing.weights)
    assert weights.dtype == np.float32
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights[~valid] == 0).all()
    np.testing.assert_allclose(weights.sum(axis=1)[valid], totals[valid], rtol=1e-5)


@every_policy
@few_examples
@given(
  logits=logit_batches,
  valid=row_masks,
  junk=hnp.arrays(np.float32, (ROWS, EXPERTS), elements=st.floats(width=32)),
)
def test_invalid_rows_change_nothing(policy, logits, valid, junk):
  spoiled = np.where(valid[:, None], logits, junk)
  for clean, dirty in zip(
    route_both(logits, valid, policy=policy), route_both(spoiled, valid, policy=policy), strict=True
  ):
    assert_same_bits(clean, dirty)


@batch_aware_policy
@few_examples
@given(logits=logit_batches, valid=row_masks)
def test_fewer_experts_or_the_models_own_routing(policy, logits, valid):
  unchanged = Prune(2) if isinstance(policy, Budget) and isinstance(policy.policy, Prune) else TopK()
  for routing, own in zip(
    route_both(logits, valid, policy=policy), route_both(logits, valid, policy=unchanged), strict=True
  ):
    if routing.active.sum() >= own.active.sum():
      assert_same_bits(routing, own)


@batch_aware_policy
@few_examples
@given(logits=logit_batches, row=st.integers(0, ROWS - 1))
def test_lone_row_runs_the_models_own_routing(policy, logits, row):
  unchanged = Prune(2) if isinstance(policy, Budget) and isinstance(policy.policy, Prune) else TopK()
  valid = np.arange(ROWS) == row
  for routing, own in zip(
    route_both(logits, valid, policy=policy), route_both(logits, valid, policy=unchanged), strict=True
  ):
    assert_same_bits(routing, own)


@every_policy
@few_examples
@given(logits=logit_batches, valid=row_masks, order=st.permutations(range(ROWS)))
def test_permuting_rows_permutes_results(policy, logits, valid, order):
  moved = route_both(logits[order], valid[order], policy=policy)
  for before, after in zip(route_both(logits, valid, policy=policy), moved, strict=True):
    np.testing.assert_array_equal(np.asarray(before.ids)[order], after.ids)
    np.testing.assert_array_equal(np.asarray(before.weights)[order], after.weights)
    np.testing.assert_array_equal(before.active, after.active)


def counts_tie(policy, logits):
  """Whether the batch votes alike for two experts, so that their order, and nothing else, decides."""
  below = logits - logits.max(axis=1, keepdims=True)
  match policy:
    case Lynx(alpha, int(beta)):
      votes = np.sort(np.maximum(np.ceil(np.float32(alpha) * below), -beta), axis=0)
    case CountVote():
      votes = np.sum(below >= np.sort(below, axis=1)[:, -TOP_K, None], axis=0, keepdims=True)
    case _:
      return False
  return len(np.unique(votes, axis=1).T) < EXPERTS


# Not MassFloor below 1: several experts may each cover all that is missing, which is a tie in most batches.
@pytest.mark.parametrize(
  "policy",
  [TopK(), Prune(2), Lynx(3, 2), Lynx(0.7, 1), CountVote(4), OEA(1), XShare(4), Auto(), Budget(TopK(), 4)],
  ids=repr,
)
def test_permuting_experts_permutes_results_up_to_ties(policy):
  order = np.random.default_rng(0).permutation(EXPERTS)
  new_index = np.argsort(order)
  valid = np.ones(32, bool)
  popularity = np.linspace(1.5, -1.5, EXPERTS, dtype=np.float32)
  batches = [popularity + normal_logits(seed, 32, EXPERTS) for seed in range(60)]
  untied = [logits for logits in batches if not counts_tie(policy, logits)]
  assert len(untied) >= 5
  for logits in untied:
    moved = route_both(logits[:, order], valid, policy=policy)
    for before, after in zip(route_both(logits, valid, policy=policy), moved, strict=True):
      np.testing.assert_array_equal(new_index[np.asarray(before.ids)], after.ids)
      np.testing.assert_allclose(before.weights, after.weights, rtol=1e-5)
