"""Passes over memory are timed; on a machine of any kind each has a speed."""

from benchmarks.kernels.memory_bandwidth import memory_bandwidth


def test_the_best_pass_is_the_fastest():
  speed = memory_bandwidth(1, repeats=2)
  assert {"sum", "sum of 4096 rows", "read and write"} <= set(speed.by_pass)
  assert all(each > 0 for each in speed.by_pass.values())
  assert speed.best == max(speed.by_pass.values())
