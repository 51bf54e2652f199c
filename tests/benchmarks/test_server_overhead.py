"""The benchmark's clients get every token, and threads' processor time is counted."""

import pytest

from benchmarks.server_overhead import Measured, overhead
from lynx_jax.engine.engine import Engine
from tests.serve.running import SIZES, params


@pytest.mark.slow
def test_a_turn_counts_both_threads():
  with Engine(params(), SIZES) as engine:
    measured = Measured(engine)
    try:
      loop, handed, pace = overhead(measured, 2, 20)
    finally:
      measured.close()
  assert loop > 0
  assert handed > 0
  assert pace > 0
