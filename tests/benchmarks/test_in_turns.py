"""Two checkouts in turns: what is concluded from known times, and that two processes run the code they should."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.in_turns import compare, in_turns
from lynx_jax.testing.random_checkpoint import random_checkpoint
from lynx_jax.testing.tiny_configs import TINY

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
  path = tmp_path_factory.mktemp("in_turns") / "model"
  random_checkpoint(path, TINY["olmoe"])
  return path


def test_a_drift_of_the_machine_cancels_and_a_slower_checkout_shows():
  drift = np.linspace(0.010, 0.020, 12)
  found = compare(16, np.stack([drift, 1.05 * drift], axis=1))
  assert found.ratio == pytest.approx(1.05)
  assert (found.low, found.high) == pytest.approx((1.05, 1.05))
  assert (found.old_ms, found.new_ms) == pytest.approx((15.0, 15.75))


def test_the_interval_holds_the_ratio_and_widens_with_noise():
  noise = np.random.default_rng(1).normal(size=(30, 2))
  quiet, loud = (compare(1, 0.01 * (1 + scale * noise)) for scale in (0.001, 0.02))
  for found in (quiet, loud):
    assert found.low < 1 < found.high
  assert loud.high - loud.low > 10 * (quiet.high - quiet.low)


@pytest.mark.slow
def test_one_checkout_against_itself_runs_and_reports_each_batch(model: Path):
  rows = list(in_turns(ROOT, ROOT, model, [1, 2], steps=2, blocks=2))
  assert [row.batch for row in rows] == [1, 2]
  assert all(row.old_ms > 0 and row.new_ms > 0 and row.low <= row.ratio <= row.high for row in rows)


def test_a_folder_that_is_not_a_checkout_is_refused(model: Path, tmp_path: Path):
  with pytest.raises(RuntimeError, match=f"the process of {tmp_path} (runs|ended)"):
    next(in_turns(tmp_path, ROOT, model, [1], steps=1, blocks=1))
