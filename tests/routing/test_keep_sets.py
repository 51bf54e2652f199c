"""The promises of single policies: mass floors, budgets, pruning, the fill, and sums without an order."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from lynx_jax.routing import (
  Budget,
  CountVote,
  Lynx,
  MassFloor,
  Prune,
  Router,
  RoutingPolicy,
  TopK,
  lynx_route,
  routing_stats,
)
from pallas_kernels.lynx_route import score_rows
from pallas_kernels.lynx_route.expert_sets import largest, summed_worth
from tests.routing import oracle
from tests.routing.routing_cases import (
  TOP_K,
  assert_same_bits,
  logit_batches,
  normal_logits,
  route_both,
  row_masks,
  some_rows,
)


@dataclass(frozen=True, slots=True)
class KeepOnly(RoutingPolicy):
  """A policy that a user might write: a fixed set of experts."""

  experts: tuple[int, ...]

  def keep_set(self, scores):
    return jnp.zeros(scores.num_experts, bool).at[jnp.array(self.experts, jnp.int32)].set(True)


@functools.partial(jax.jit, static_argnames=("policy", "top_k"))
def route_and_measure(logits, *, policy, top_k):
  routing = lynx_route(logits, top_k, policy=policy, implementation="reference")
  return routing_stats(logits, top_k, routing)


@pytest.mark.parametrize("tau", [0.3, 0.8, 1])
@settings(max_examples=40)
@given(logits=logit_batches, valid=row_masks)
def test_mass_floor_holds_for_every_row(tau, logits, valid):
  routing, _ = route_both(logits, valid, policy=MassFloor(tau))
  retained = routing_stats(jnp.asarray(logits), TOP_K, routing, jnp.asarray(valid)).retained
  assert np.asarray(retained).min() >= tau - 1e-6


@pytest.mark.parametrize(("rows", "experts", "top_k", "tau"), [(64, 128, 8, 0.95), (2000, 64, 6, 0.6)])
def test_mass_floor_holds_in_large_batches(rows, experts, top_k, tau):
  # Rows that agree on a few experts, so that a set smaller than the model's own exists.
  favourites = np.linspace(3, -3, experts, dtype=np.float32)
  logits = favourites + normal_logits(7, rows, experts, scale=0.7)
  stats = route_and_measure(logits, policy=MassFloor(tau), top_k=top_k)
  assert stats.experts < stats.own_experts
  assert stats.retained.min() >= tau - 1e-6


@pytest.mark.parametrize(("inner", "max_active"), [(TopK(), 3), (TopK(), 6), (Lynx(3, 2), 4)], ids=repr)
@settings(max_examples=20)
@given(logits=logit_batches, valid=row_masks)
def test_budget_is_never_exceeded(inner, max_active, logits, valid):
  routing, _ = route_both(logits, valid, policy=Budget(inner, max_active))
  assert routing.active.sum() <= max_active
  free, _ = route_both(logits, valid, policy=inner)
  if free.active.sum() < max_active and inner != TopK():
    assert_same_bits(routing, free)


def test_budget_retains_more_than_counting_votes():
  logits = normal_logits(3, 32, 64)
  budget, votes = (route_and_measure(logits, policy=p, top_k=4) for p in (Budget(TopK(), 16), CountVote(16)))
  assert budget.experts == votes.experts == 16
  assert budget.retained.mean() > votes.retained.mean()


def test_policies_do_not_see_what_invalid_rows_held():
  logits, valid = jnp.asarray(normal_logits(1, 6, 8)), jnp.arange(6) < 4
  spoiled = jnp.where(valid[:, None], logits, jnp.nan)
  both = (jax.tree.leaves(score_rows(given, 3, 2, valid, Router())) for given in (logits, spoiled))
  for clean, seen in zip(*both, strict=True):
    np.testing.assert_array_equal(clean, seen)
    assert np.isfinite(seen).all()


def test_mass_floor_owes_nothing_to_invalid_rows():
  logits = jnp.tile(jnp.array([[0.0, 0.0, 5.0, 1.0]]), (4, 1))
  scores = score_rows(logits, 2, 2, jnp.array([True, False, True, False]), Router())
  assert MassFloor(0.8).keep_set(scores).tolist() == [False, False, True, False]


@pytest.mark.parametrize("experts", [(), (5, 2), (1, 5, 2)])
def test_small_sets_are_filled_by_summed_probability(experts):
  logits = normal_logits(5, 6, 8)
  valid = some_rows(5, 6, 4)
  routing, _ = route_both(logits, valid, policy=KeepOnly(experts))
  probs = np.array([oracle.softmax(row) for row in logits[valid]]).sum(axis=0)
  others = oracle.top(probs, TOP_K - len(experts), among=set(range(8)) - set(experts))
  assert set(np.flatnonzero(routing.active)) == {*experts, *others}


def test_prune_cuts_a_lone_row_too():
  logits, alone = normal_logits(2, 6, 8), np.arange(6) == 0
  own, pruned, untouched = (route_both(logits, alone, policy=policy)[0] for policy in (TopK(), Prune(2), Prune(TOP_K)))
  assert pruned.ids[0].tolist() == own.ids[0, :2].tolist()
  assert pruned.weights[0].sum() == pytest.approx(1)
  assert_same_bits(untouched, own)


def test_budget_counts_what_its_policy_runs():
  assert Budget(Prune(2), 2).experts_per_token(4) == 2
  routing, _ = route_both(normal_logits(0, 6, 8), np.ones(6, bool), policy=Budget(Prune(2), 3))
  assert routing.ids.shape == (6, 2)


def test_sums_over_rows_use_the_bits_without_overflow():
  for rows in (1, 3, 1023, 1024):
    sums = summed_worth(jnp.full((rows, 2), jnp.array([1.0, 0.25])), jnp.ones(rows, bool))
    assert sums[0] == 4 * sums[1]
    assert not summed_worth(jnp.ones((rows, 2)), jnp.zeros(rows, bool)).any()
    assert 2**29 < sums[0] < 2**31 - 1


def test_largest_prefers_the_lowest_index():
  values = jnp.array([2, 5, 5, 1, 5], jnp.int32)
  assert [np.flatnonzero(largest(values, size)).tolist() for size in (0, 1, 2, 4)] == [
    [],
    [1],
    [1, 2],
    [0, 1, 2, 4],
  ]
