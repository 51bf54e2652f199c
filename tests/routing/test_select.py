"""Routing for a decode step: the same as `lynx_route`, with the rows of each expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import Lynx, TopK, lynx_route
from lynx_jax.routing.select import route_to_tiles, rule_of, rule_of_router
from pallas_kernels import select_experts
from pallas_kernels.cpu import unavailable
from pallas_kernels.expert_ffn import tile_rows
from tests.routing.routing_cases import (
  BIAS,
  EXPERTS,
  POLICIES,
  RENORMALIZE,
  ROUTERS,
  ROWS,
  TOP_K,
  assert_same_bits,
  normal_logits,
)

VALID = np.array([True, False, True, True, True, False])
to_tiles = jax.jit(route_to_tiles, static_argnums=1, static_argnames=("policy", "router"))


def assert_same_but_for_weights(got, expected):
  """In native code the last bits of weights are its own."""
  np.testing.assert_allclose(got.weights, expected.weights, rtol=3e-7)
  assert_same_bits(got, expected if unavailable() else expected._replace(weights=got.weights))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_off_the_gpu_it_is_lynx_route(policy):
  logits, valid = jnp.asarray(normal_logits(0, ROWS, EXPERTS)), jnp.asarray(VALID)
  routing, tiles = to_tiles(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid)
  expected = lynx_route(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid)
  if rule_of(policy) is None:
    assert_same_bits(routing, expected)
    assert tiles is None
    return
  assert_same_but_for_weights(routing, expected)
  assert_same_bits(tiles, tile_rows(routing.ids, valid, EXPERTS, 16))
  # The rule that the GPU's kernel is given is the policy.
  chosen = select_experts(logits, TOP_K, rule=rule_of(policy), valid=valid, implementation="reference")
  np.testing.assert_array_equal(chosen.ids, routing.ids)


@pytest.mark.parametrize("name", ROUTERS)
def test_every_router_has_tiles_and_is_the_kernels_router(name):
  router, top_k = ROUTERS[name]
  logits, valid = jnp.asarray(normal_logits(1, ROWS, EXPERTS)), jnp.asarray(VALID)
  rule = {"selection_bias": jnp.asarray(BIAS) if name == "DeepSeek-V3" else None, "valid": valid}
  routing, tiles = to_tiles(logits, top_k, policy=Lynx(3, 2), router=router, **rule)
  assert_same_but_for_weights(routing, lynx_route(logits, top_k, policy=Lynx(3, 2), router=router, **rule))
  assert_same_bits(tiles, tile_rows(routing.ids, valid, EXPERTS, 16))
  given = {"rule": rule_of(Lynx(3, 2)), "router": rule_of_router(router), "implementation": "reference"}
  chosen = select_experts(logits, top_k, **given, **rule)
  np.testing.assert_array_equal(chosen.ids, routing.ids)
  np.testing.assert_allclose(chosen.weights, routing.weights, rtol=1e-5)


def test_weights_have_the_same_derivatives_under_a_bias():
  router, top_k = ROUTERS["DeepSeek-V3"]
  rule = {"policy": TopK(), "router": router, "valid": jnp.ones(ROWS, bool)}
  at = jnp.asarray(normal_logits(1, ROWS, EXPERTS)), jnp.asarray(BIAS)

  def of_tiles(logits, bias):
    return to_tiles(logits, top_k, selection_bias=bias, **rule)[0].weights[:, 0].sum()

  def of_route(logits, bias):
    return lynx_route(logits, top_k, selection_bias=bias, **rule).weights[:, 0].sum()

  quickly = {"xla_backend_optimization_level": 0}
  slopes = [jax.jit(jax.grad(of, (0, 1)), compiler_options=quickly)(*at) for of in (of_tiles, of_route)]
  for got, want in zip(*slopes, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_many_rows_an_expert_are_left_to_larger_tiles():
  logits = jnp.asarray(normal_logits(0, 256, 4))
  assert to_tiles(logits, 2, policy=TopK(), router=RENORMALIZE, valid=jnp.ones(256, bool))[1] is None
