"""lynx_route against the slow statement of the same rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, TopK, XShare
from tests.routing import oracle
from tests.routing.routing_cases import both_routings, normal_logits, some_rows

PUBLISHED = ((0.7, 1), (1, 1), (3, 4), (3, 2), (1, 2), (1.125, 2), (1, None), (2.5, 40))
SHAPES = [(experts, k) for experts in (4, 8, 64, 128) for k in (1, 2, 4, 8) if k <= experts]


# Compiled without optimisation: these tests are mostly compilation, and compare to a tolerance.
route_quickly = jax.jit(
  both_routings,
  static_argnames=("policy", "top_k"),
  compiler_options={"xla_backend_optimization_level": 0},
)


def assert_matches(logits, top_k, policy, valid):
  routings = route_quickly(jnp.asarray(logits), jnp.asarray(valid), policy=policy, top_k=top_k)
  ids, both_weights, active = oracle.route(logits, top_k, policy, valid)
  for routing, weights in zip(routings, both_weights, strict=True):
    np.testing.assert_array_equal(routing.ids, ids)
    np.testing.assert_array_equal(routing.active, active)
    np.testing.assert_allclose(routing.weights, weights, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(("experts", "top_k"), SHAPES)
def test_lynx_in_every_shape(experts, top_k):
  policy = Lynx(*PUBLISHED[SHAPES.index((experts, top_k)) % len(PUBLISHED)])
  for seed, count in enumerate((1, 2, 3, 5, 16, 33, 64)):
    valid = some_rows(seed, 64, count)
    assert_matches(normal_logits(seed, 64, experts), top_k, policy, valid)
    assert_matches(normal_logits(seed, 64, experts, grid=0.5), top_k, policy, valid)


@pytest.mark.parametrize(("alpha", "beta"), PUBLISHED)
def test_lynx_with_every_knob_and_batch_size(alpha, beta):
  for count in range(1, 17):
    valid = some_rows(count, 16, count)
    assert_matches(normal_logits(count, 16, 8, grid=0.25), 2, Lynx(alpha, beta), valid)
    assert_matches(normal_logits(count, 16, 8, scale=6), 2, Lynx(alpha, beta), valid)


@pytest.mark.parametrize(
  "policy",
  [
    TopK(),
    Prune(2),
    CountVote(6),
    CountVote(32),
    OEA(1),
    OEA(2),
    XShare(8),
    XShare(20, k0=2),
    MassFloor(0.5),
    MassFloor(0.9),
    MassFloor(1),
    Auto(0.1),
    Auto(),
    Auto(2),
    Budget(TopK(), 9),
    Budget(Lynx(3, 2), 6),
    Budget(OEA(2), 5),
    Budget(Prune(2), 5),
  ],
  ids=repr,
)
def test_other_policies(policy):
  for seed, count in enumerate((1, 2, 3, 6, 11, 16)):
    assert_matches(normal_logits(seed, 16, 32), 4, policy, some_rows(seed, 16, count))


@pytest.mark.parametrize(
  "policy", [CountVote(5), OEA(1), XShare(7), MassFloor(0.8), Auto(), Budget(TopK(), 6)], ids=repr
)
def test_equal_columns_go_to_the_lowest_index(policy):
  for seed in range(4):
    logits = np.repeat(normal_logits(seed, 16, 16), 2, axis=1)
    assert_matches(logits, 4, policy, np.ones(16, bool))


def test_oracle_reproduces_a_case_worked_by_hand():
  # alpha = beta = 1, so bins are (0, 0, -1) and (-1, 0, 0), and votes with B = 2 sum to (1.5, 2, 1.5).
  # Each row has two experts in bin 0 and takes the popular one, 1.
  logits = np.array([[0.0, -0.5, -5.0], [-5.0, -0.5, 0.0]], np.float32)
  ids, (weights, _), active = oracle.route(logits, 1, Lynx(1, 1))
  assert ids.tolist() == [[1], [1]]
  assert weights.tolist() == [[1.0], [1.0]]
  assert active.tolist() == [False, True, False]
