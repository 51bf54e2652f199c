"""What a model's layer asks of routing: `lynx_route` in one call where a platform has code for it, rows grouped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import Lynx, TopK, lynx_route, lynx_route_tiles
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
to_tiles = jax.jit(lynx_route_tiles, static_argnums=1, static_argnames=("policy", "router"))
in_plain_jax = functools.partial(lynx_route, implementation="reference")


def assert_same_but_for_weights(got, expected):
  """In native code the last bits of weights are its own."""
  np.testing.assert_allclose(got.weights, expected.weights, rtol=3e-7)
  assert_same_bits(got.routing, expected if unavailable() else expected._replace(weights=got.weights))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_any_policy_has_tiles_and_is_the_plain_rule(policy):
  logits, valid = jnp.asarray(normal_logits(0, ROWS, EXPERTS)), jnp.asarray(VALID)
  routing = to_tiles(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid)
  expected = in_plain_jax(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid)
  assert_same_but_for_weights(routing, expected)
  assert_same_bits(routing.tiles, tile_rows(routing.ids, valid, EXPERTS, 16))


@pytest.mark.parametrize("name", ROUTERS)
def test_any_router_has_tiles_and_is_the_plain_rule(name):
  router, top_k = ROUTERS[name]
  logits, valid = jnp.asarray(normal_logits(1, ROWS, EXPERTS)), jnp.asarray(VALID)
  rule = {"selection_bias": jnp.asarray(BIAS) if name == "DeepSeek-V3" else None, "valid": valid}
  routing = to_tiles(logits, top_k, policy=Lynx(3, 2), router=router, **rule)
  assert_same_but_for_weights(routing, in_plain_jax(logits, top_k, policy=Lynx(3, 2), router=router, **rule))
  assert_same_bits(routing.tiles, tile_rows(routing.ids, valid, EXPERTS, 16))


def test_weights_have_the_same_derivatives_under_a_bias():
  router, top_k = ROUTERS["DeepSeek-V3"]
  rule = {"policy": TopK(), "router": router, "valid": jnp.ones(ROWS, bool)}
  at = jnp.asarray(normal_logits(1, ROWS, EXPERTS)), jnp.asarray(BIAS)

  def of_tiles(logits, bias):
    return to_tiles(logits, top_k, selection_bias=bias, **rule).weights[:, 0].sum()

  def of_route(logits, bias):
    return in_plain_jax(logits, top_k, selection_bias=bias, **rule).weights[:, 0].sum()

  quickly = {"xla_backend_optimization_level": 0}
  slopes = [jax.jit(jax.grad(of, (0, 1)), compiler_options=quickly)(*at) for of in (of_tiles, of_route)]
  for got, want in zip(*slopes, strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_many_rows_an_expert_are_left_to_larger_tiles():
  logits = jnp.asarray(normal_logits(0, 256, 4))
  assert to_tiles(logits, 2, policy=TopK(), router=RENORMALIZE, valid=jnp.ones(256, bool)).tiles is None
