"""Policies at the same number of experts, on costs that are known."""

import numpy as np
import pytest

from lynx_jax.evals import Measured, cost_at, fewest_within, measure_policies, summarize, times_cheaper
from lynx_jax.routing import OEA, Prune, TopK
from tests.small_models import random_prompts, small_params


def made(experts, divergence, increase, batches=12):
  """Costs of a policy whose batches scatter a little around known means."""
  scatter = 1 + 0.02 * np.random.default_rng(int(experts * 10)).normal(size=batches)
  own = np.full(batches, 100.0) * (1 + 0.3 * np.random.default_rng(1).normal(size=batches))
  ones = np.ones(batches)
  return Measured(
    tokens=50 * ones, cross_entropy=own * (1 + increase), own_cross_entropy=own, divergence=50 * divergence * scatter,
    agreement=45 * ones, experts=experts * ones, own_experts=28 * ones, retained=48 * ones, worst_retained=0.5 * ones,
  )  # fmt: skip


def test_divergence_is_interpolated_in_its_logarithm():
  family = [made(20, 0.01, 0.001), made(12, 0.04, 0.009), made(28, 0.0, 0.0)]
  found, at_knob = cost_at(family, 16), cost_at(family, 20)
  assert found is not None
  assert at_knob is not None
  assert found.divergence.value == pytest.approx(0.02, rel=0.05)
  assert found.divergence.low < found.divergence.value < found.divergence.high
  assert found.increase.value == pytest.approx(0.005)
  assert at_knob.divergence.value == pytest.approx(summarize(family[0]).divergence.value)


def test_nothing_is_said_beyond_the_knobs():
  family = [made(20, 0.01, 0.001), made(12, 0.04, 0.009)]
  assert cost_at(family, 11.9) is None
  assert cost_at(family, 20.1) is None


def test_how_many_times_cheaper_at_the_same_experts():
  family = [made(20, 0.03, 0.003), made(12, 0.12, 0.027)]
  found = times_cheaper(made(16, 0.02, 0.002), family)
  assert found is not None
  assert found.value == pytest.approx(0.06 / 0.02, rel=0.05)
  assert found.low < found.value < found.high
  assert times_cheaper(made(11, 0.02, 0.002), family) is None


def test_the_fewest_experts_within_bounds():
  family = [made(20, 0.01, 0.001), made(12, 0.04, 0.009)]
  rival = [made(22, 0.04, 0.004), made(14, 0.08, 0.02)]
  # Divergences are equal shares of each other at 12 + 8 x, where 0.04 * 4**-x is a third of 0.08 * 2**-(x - 0.25).
  bounded = fewest_within(family, rival, increase=1.0, divergence=1 / 3)
  assert bounded == pytest.approx(12 + 8 * (np.log2(0.04 / (0.08 * 2**0.25 / 3))), abs=0.3)
  assert fewest_within(family, rival, increase=0.003, divergence=1.0) == pytest.approx(18, abs=0.3)
  assert fewest_within(family, rival, increase=1.0, divergence=1.0) == pytest.approx(14, abs=0.06)
  assert fewest_within(family, rival, increase=0.0, divergence=1.0) is None


def test_measured_policies_share_their_batches():
  batches = [np.array(random_prompts([8] * 4, seed=seed), np.int32) for seed in range(3)]
  own, few, pruned = measure_policies(small_params(), batches, [TopK(), OEA(1), Prune(1)], prompt_length=2)
  np.testing.assert_array_equal(own.tokens, [20, 20, 20])
  np.testing.assert_array_equal(own.own_cross_entropy, few.own_cross_entropy)
  # Two programs of the same sums: the rounding of float32.
  assert abs(summarize(own).increase.value) < 1e-6
  assert summarize(few).experts.value < summarize(own).experts.value
  assert summarize(pruned).divergence.value > 0
