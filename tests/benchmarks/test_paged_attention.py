"""Attention over a paged cache beside a dense one, at sizes that say nothing of speed."""

import pytest

from benchmarks.kernels.paged_attention import Case, paged_times
from pallas_kernels.cpu import unavailable

CASES = {
  "heads": Case(queries=4, groups=2, width=16, positions=96),
  "latents": Case(queries=3, groups=None, width=48, positions=64, values=32),
}


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
def test_both_caches_give_the_same_bits():
  found = list(paged_times(CASES, rows=3, layers=2, rounds=2))
  assert [time.name for time in found] == list(CASES)
  assert all(time.same_bits for time in found)
  assert all(min(time.dense_ms, time.paged_ms, time.ratio) > 0 for time in found)
