"""Routing for a decode step: the same as `lynx_route`, with the rows of each expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import TopK, lynx_route
from lynx_jax.routing.select import route_to_tiles, rule_of
from pallas_kernels import select_experts
from pallas_kernels.expert_ffn import tile_rows
from tests.routing.routing_cases import EXPERTS, POLICIES, RENORMALIZE, ROWS, TOP_K, assert_same_bits, normal_logits

VALID = np.array([True, False, True, True, True, False])
to_tiles = jax.jit(route_to_tiles, static_argnums=1, static_argnames=("policy", "router"))


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_off_the_gpu_it_is_lynx_route_bit_for_bit(policy):
  logits, valid = jnp.asarray(normal_logits(0, ROWS, EXPERTS)), jnp.asarray(VALID)
  routing, tiles = to_tiles(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid)
  assert_same_bits(routing, lynx_route(logits, TOP_K, policy=policy, router=RENORMALIZE, valid=valid))
  if rule_of(policy) is None:
    assert tiles is None
    return
  assert_same_bits(tiles, tile_rows(routing.ids, valid, EXPERTS, 16))
  # The rule that the GPU's kernel is given is the policy.
  chosen = select_experts(logits, TOP_K, rule=rule_of(policy), valid=valid, implementation="reference")
  np.testing.assert_array_equal(chosen.ids, routing.ids)


def test_many_rows_an_expert_are_left_to_larger_tiles():
  logits = jnp.asarray(normal_logits(0, 256, 4))
  assert to_tiles(logits, 2, policy=TopK(), router=RENORMALIZE, valid=jnp.ones(256, bool))[1] is None
