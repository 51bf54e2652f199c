"""`Auto`: what it promises of the loss, and that its price follows the batch."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.routing import Auto, TopK, lynx_route
from tests.routing import oracle
from tests.routing.routing_cases import TOP_K, logit_batches, normal_logits, route_both, row_masks


def losses(logits, valid, kept, top_k):
  """Each valid row's loss and squared weights, in float64."""
  found, worth = [], []
  for row in logits[valid]:
    p = np.array(oracle.softmax(row))
    own = oracle.top(p, top_k)
    w = p / p[own].sum()
    retained = w[oracle.top(p, top_k, among=kept)].sum()
    found.append(sum(w[e] ** 2 for e in own if e not in kept) + (1 - retained) ** 2)
    worth.append((w[own] ** 2).sum())
  return np.array(found), np.array(worth)


@settings(max_examples=60)
@given(logits=logit_batches, valid=row_masks, share=st.sampled_from([0.5, 1.5]))
def test_the_mean_loss_is_bounded(logits, valid, share):
  routing, _ = route_both(logits, valid, policy=Auto(share))
  if not valid.any():
    return
  loss, worth = losses(logits, valid, set(np.flatnonzero(routing.active)), TOP_K)
  own, _ = route_both(logits, valid, policy=TopK())
  own_active, active = np.asarray(own.active), np.asarray(routing.active)
  left_out = (own_active & ~active).sum() / own_active.sum()
  assert loss.mean() <= share * left_out * worth.mean() + 1e-4


@given(seed=st.integers(0, 99), rows=st.integers(2, 12), top_k=st.integers(1, 4))
@settings(max_examples=30)
def test_the_loss_is_that_of_the_weights_up_to_a_constant(seed, rows, top_k):
  logits = normal_logits(seed, rows, 12)
  before = lynx_route(jnp.asarray(logits), top_k)
  after = lynx_route(jnp.asarray(logits), top_k, policy=Auto())
  loss, _ = losses(logits, np.ones(rows, bool), set(np.flatnonzero(after.active)), top_k)
  change = np.zeros((rows, 12))
  np.put_along_axis(change, np.asarray(before.ids), np.asarray(before.weights), axis=1)
  np.put_along_axis(
    change, np.asarray(after.ids), np.take_along_axis(change, np.asarray(after.ids), 1) - after.weights, 1
  )
  # Substitutes share the mass that was lost, so |w - w'|^2 is at most the lost squares plus twice its square.
  assert ((change**2).sum(axis=1) <= 2 * loss + 1e-5).all()


def test_more_experts_are_left_out_as_the_price_rises():
  logits = jnp.asarray(normal_logits(4, 16, 32))
  sizes = [int(lynx_route(logits, 4, policy=Auto(share)).active.sum()) for share in (1e-6, 0.1, 0.5, 1, 2)]
  assert sizes == sorted(sizes, reverse=True)
  assert sizes[0] == int(lynx_route(logits, 4).active.sum())
  assert len(set(sizes)) == 5


def test_rows_that_agree_cost_less_than_rows_that_do_not():
  alike = np.linspace(2, -2, 32, dtype=np.float32) + 0.3 * normal_logits(5, 16, 32)
  unlike = normal_logits(6, 16, 32)
  sizes = [int(lynx_route(jnp.asarray(logits), 4, policy=Auto()).active.sum()) for logits in (alike, unlike)]
  assert sizes[0] < sizes[1]


@pytest.mark.parametrize("rows", [1, 300])
def test_sums_fit_whatever_the_rows(rows):
  routing = lynx_route(jnp.asarray(normal_logits(7, rows, 16, scale=8)), 2, policy=Auto())
  assert 2 <= int(routing.active.sum()) <= 16
