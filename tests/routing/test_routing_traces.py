"""What lynx_route is as a traced function: one trace for any valid rows, float32 inside, static policies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import Lynx, TopK, lynx_route
from tests.routing.routing_cases import (
  EXPERTS,
  KEEP_MASS,
  POLICIES,
  RENORMALIZE,
  ROWS,
  TOP_K,
  TRACES,
  assert_same_bits,
  normal_logits,
  route_both,
  some_rows,
)


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_one_trace_for_any_number_of_valid_rows(policy):
  # Another test may have compiled this, and compiled programs are let go at times (conftest.py).
  route_both.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
  TRACES.clear()
  for count in range(ROWS + 1):
    route_both(normal_logits(count, ROWS, EXPERTS), some_rows(count, ROWS, count), policy=policy)
  assert TRACES[policy, TOP_K, (ROWS, EXPERTS), np.dtype(np.float32)] == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("policy", [TopK(), Lynx(3, 2)], ids=repr)
def test_half_precision_logits_are_routed_in_float32(policy, dtype):
  logits = jnp.asarray(normal_logits(0, ROWS, EXPERTS)).astype(dtype)
  valid = np.arange(ROWS) != 2
  halves = route_both(logits, valid, policy=policy)
  singles = route_both(logits.astype(jnp.float32), valid, policy=policy)
  for half, single in zip(halves, singles, strict=True):
    assert half.weights.dtype == jnp.float32
    assert_same_bits(half, single)


@pytest.mark.parametrize("router", [RENORMALIZE, KEEP_MASS], ids=repr)
def test_no_policy_is_topk_is_the_models_own_rule(router):
  @functools.partial(jax.jit, static_argnames="policy")
  def route(logits, policy):
    return lynx_route(logits, TOP_K, policy=policy, router=router, implementation="reference")

  @jax.jit
  def own_rule(logits):
    probs = jax.nn.softmax(logits, axis=-1)
    _, ids = jax.lax.top_k(logits, TOP_K)
    weights = jnp.take_along_axis(probs, ids, axis=-1)
    return ids, weights / weights.sum(axis=-1, keepdims=True) if router.renormalize else weights

  for seed in range(10):
    logits = normal_logits(seed, 32, 64)
    unchanged = route(logits, TopK())
    assert_same_bits(route(logits, None), unchanged)
    ids, weights = own_rule(logits)
    np.testing.assert_array_equal(unchanged.ids, ids)
    np.testing.assert_array_equal(unchanged.weights, weights)


def test_equal_policies_share_a_trace():
  traces = []

  @functools.partial(jax.jit, static_argnames="policy")
  def route(logits, policy):
    traces.append(policy)
    return lynx_route(logits, TOP_K, policy=policy)

  for policy in (Lynx(3, 2), Lynx(alpha=3.0, beta=2)):
    route(normal_logits(0, ROWS, EXPERTS), policy)
  assert len(traces) == 1


def test_no_valid_rows():
  for policy in (TopK(), Lynx(3, 2)):
    routing, _ = route_both(normal_logits(0, ROWS, EXPERTS), np.zeros(ROWS, bool), policy=policy)
    assert not routing.active.any()
    assert not routing.weights.any()
    assert routing.ids.tolist() == [list(range(TOP_K))] * ROWS
