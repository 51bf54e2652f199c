"""Lynx's exact popularity order, and what its knobs promise."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from lynx_jax.routing import Lynx, TopK
from pallas_kernels.lynx_route.lynx import VOTE_BINS, affinity_bins, pack_digits, popularity_ranks
from tests.routing.routing_cases import logit_batches, normal_logits, route_both, row_masks, some_rows


def exact_ranks(bins, valid, depth):
  """How many experts have a strictly lower score, with scores as fractions."""
  rows = int(valid.sum())
  scores = [sum(Fraction(rows) ** max(int(bin_), 1 - depth) for bin_ in column[valid]) for column in bins.T]
  return [sum(other < score for other in scores) for score in scores]


@pytest.mark.parametrize(("rows", "depth"), [(2, 2), (3, 5), (17, 3), (64, VOTE_BINS), (1500, 4)])
def test_ranks_are_exact(rows, depth):
  rank = jax.jit(popularity_ranks, static_argnums=2)
  for count in sorted({2, 3, (rows + 2) // 2, rows} & set(range(2, rows + 1))):
    rng = np.random.default_rng(count)
    skewed = rng.random(16) ** 3
    bins = -np.floor(rng.random((rows, 16)) * (depth + 1) * skewed).astype(np.float32)
    valid = some_rows(count, rows, count)
    assert rank(jnp.asarray(bins), jnp.asarray(valid), depth).tolist() == exact_ranks(bins, valid, depth)


def test_one_row_at_the_top_beats_all_rows_one_bin_down():
  # B votes of 1/B equal one whole vote: what decides is that the other rows vote for expert 0 as well.
  bins = jnp.array([[0.0, -1.0], [-3.0, -1.0], [-3.0, -1.0]])
  assert popularity_ranks(bins, jnp.ones(3, bool), 4).tolist() == [1, 0]


def test_packed_digits_fill_the_word_and_keep_the_order():
  top_digits = jnp.full((31, 1), 1, jnp.int32)
  (word,) = pack_digits(top_digits, base=2)
  assert word.tolist() == [2**31 - 1]
  low, high = pack_digits(jnp.array([[0, 0], [255, 255], [255, 255], [255, 0]], jnp.int32), base=256)
  assert low.tolist() == [255 * 256 + 255] * 2
  assert high.tolist() == [255, 0]


def test_bins_count_down_from_each_rows_top():
  logits = jnp.array([[2.0, 1.9, 1.0, 0.0, -9.0]])
  assert affinity_bins(logits, 1, None).tolist() == [[0, 0, -1, -2, -11]]
  assert affinity_bins(logits, 3, 2).tolist() == [[0, 0, -2, -2, -2]]


@pytest.mark.parametrize("policy", [Lynx(3, 2), Lynx(0.7, 1), Lynx(1, None)], ids=repr)
@settings(max_examples=40)
@given(logits=logit_batches, valid=row_masks)
def test_clear_leaders_stay(policy, logits, valid):
  second, first = np.sort(logits, axis=1)[:, -2:].T
  clear = valid & (first - second > 1 / policy.alpha + 1e-4)
  ids = np.asarray(route_both(logits, valid, policy=policy)[0].ids)
  assert (ids[clear, 0] == logits[clear].argmax(axis=1)).all()


def test_a_keep_set_smaller_than_the_models_own():
  logits, everyone = normal_logits(0, 32, 64), np.ones(32, bool)
  tight, loose, own = (
    np.asarray(route_both(logits, everyone, policy=policy, top_k=4)[0].active).sum()
    for policy in (Lynx(1, 1), Lynx(1, 4), TopK())
  )
  assert 4 <= tight < loose < own


@pytest.mark.parametrize("policy", [Lynx(3, 2), Lynx(1, None), Lynx(1e6, None)], ids=repr)
def test_masked_and_extreme_experts(policy):
  logits = np.concatenate([normal_logits(1, 6, 4), np.full((6, 4), -np.inf, np.float32)], axis=1)
  logits[0, 0], logits[1, 1] = np.inf, 3e38
  routing, _ = route_both(logits, np.ones(6, bool), policy=policy)
  assert np.asarray(routing.ids).max() < 4
  assert np.isfinite(routing.weights).all()
  masked_but_two = np.where(np.arange(8) < 2, logits, -np.inf).astype(np.float32)
  for routing in route_both(masked_but_two, np.ones(6, bool), policy=policy):
    assert all(len(set(row)) == 3 and {0, 1} <= set(row) for row in routing.ids.tolist())
    assert np.isfinite(routing.weights).all()
    assert (np.asarray(routing.weights)[:, 2] == 0).all()
