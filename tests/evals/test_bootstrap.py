"""Intervals against what is known of simple populations."""

import numpy as np

from lynx_jax.evals import paired_ratio, ratio


def test_a_constant_has_no_width():
  found = ratio(np.full(8, 3.0), np.full(8, 2.0))
  assert (found.value, found.low, found.high) == (1.5, 1.5, 1.5)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
  random = np.random.default_rng(0)
  covered = 0
  for trial in range(200):
    weights = random.integers(1, 9, size=60).astype(float)
    found = ratio(random.normal(0.7, 0.4, size=60) * weights, weights, seed=trial)
    covered += found.low <= 0.7 <= found.high
  assert 0.88 <= covered / 200 <= 0.99


def test_pairing_removes_what_batches_have_in_common():
  random = np.random.default_rng(1)
  hard = random.uniform(1, 9, size=40)
  paired = paired_ratio(hard * 1.01, hard)
  np.testing.assert_allclose((paired.value, paired.low, paired.high), 0.01, rtol=1e-6)


def test_the_same_seed_gives_the_same_interval():
  values = np.random.default_rng(2).normal(size=20) + 5
  assert ratio(values, np.ones(20), seed=4) == ratio(values, np.ones(20), seed=4)
