"""Experts read and mass retained, on a batch small enough to count by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.routing import (
  Routing,
  active_experts,
  expert_bytes,
  lynx_route,
  own_experts,
  retained_mass,
  routing_stats,
  summarize_retained,
)

# Rows of probabilities over four experts; the model's own top 2 is (0, 1), then (2, 3), then (0, 2).
LOGITS = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.5, 0.3], [0.4, 0.1, 0.4, 0.1]]))
VALID = jnp.array([True, True, False])
WITHIN_0_2 = Routing(
  ids=jnp.array([[0, 2], [2, 0], [0, 2]], jnp.int32),
  weights=jnp.ones((3, 2)),
  active=jnp.array([True, False, True, False]),
)


def test_counts_of_experts():
  assert own_experts(LOGITS, 2) == 4
  assert own_experts(LOGITS, 2, jnp.array([True, False, True])) == 3
  assert active_experts(WITHIN_0_2) == 2


def test_substitutes_count_with_their_original_probability():
  np.testing.assert_allclose(retained_mass(LOGITS, 2, WITHIN_0_2, VALID), [0.6 / 0.8, 0.6 / 0.8, 1], rtol=1e-6)
  np.testing.assert_allclose(retained_mass(LOGITS, 2, lynx_route(LOGITS, 2)), 1, rtol=1e-6)
  one_each = WITHIN_0_2._replace(ids=WITHIN_0_2.ids[:, :1], weights=WITHIN_0_2.weights[:, :1])
  np.testing.assert_allclose(retained_mass(LOGITS, 2, one_each, VALID), [0.5 / 0.8, 0.5 / 0.8, 1], rtol=1e-6)


def test_mean_and_worst_are_over_valid_rows():
  retained = jnp.array([0.5, 0.9, 0.1])
  mean, worst = summarize_retained(retained, VALID)
  assert float(mean) == pytest.approx(0.7)
  assert float(worst) == pytest.approx(0.5)
  assert [float(x) for x in summarize_retained(retained, jnp.zeros(3, bool))] == [1, 1]
  assert [float(x) for x in summarize_retained(retained)] == pytest.approx([0.5, 0.1])


def test_stats_of_one_step():
  stats = routing_stats(LOGITS, 2, WITHIN_0_2, VALID)
  assert [float(x) for x in stats] == pytest.approx([4, 2, 0.75, 0.75])


def test_bytes_do_not_wrap():
  assert float(expert_bytes(jnp.int32(8), 352 * 2**20)) == 8 * 352 * 2**20
