"""Experts read and mass retained, on a batch small enough to count by hand."""

import jax.numpy as jnp
import numpy as np

from lynx_jax.routing import Routing, lynx_route, routing_stats

# Rows of probabilities over four experts; the model's own top 2 is (0, 1), then (2, 3), then (0, 2).
LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.5, 0.3], [0.4, 0.1, 0.4, 0.1]]))
VALID = jnp.array([True, True, False])
WITHIN_0_2 = Routing(
  ids=jnp.array([[0, 2], [2, 0], [0, 2]], jnp.int32),
  weights=jnp.ones((3, 2)),
  active=jnp.array([True, False, True, False]),
)


def test_counts_of_experts():
  assert routing_stats(LOGITS, 2, WITHIN_0_2).own_experts == 4
  assert routing_stats(LOGITS, 2, WITHIN_0_2, jnp.array([True, False, True])).own_experts == 3
  assert routing_stats(LOGITS, 2, WITHIN_0_2, VALID).experts == 2


def test_substitutes_count_with_their_original_probability():
  def retained(routing, valid=None):
    return routing_stats(LOGITS, 2, routing, valid).retained

  np.testing.assert_allclose(retained(WITHIN_0_2, VALID), [0.6 / 0.8, 0.6 / 0.8, 1], rtol=1e-6)
  np.testing.assert_allclose(retained(lynx_route(LOGITS, 2)), 1, rtol=1e-6)
  one_each = WITHIN_0_2._replace(ids=WITHIN_0_2.ids[:, :1], weights=WITHIN_0_2.weights[:, :1])
  np.testing.assert_allclose(retained(one_each, VALID), [0.5 / 0.8, 0.5 / 0.8, 1], rtol=1e-6)


def test_experts_without_weight_retain_nothing():
  halved = WITHIN_0_2._replace(weights=WITHIN_0_2.weights.at[:, 1].set(0.0))
  np.testing.assert_allclose(routing_stats(LOGITS, 2, halved, VALID).retained, [0.5 / 0.8, 0.5 / 0.8, 1], rtol=1e-6)
