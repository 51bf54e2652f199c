"""Times are of steps in which all rows decode, with a result committed in each."""

import pytest

from benchmarks.engine_host_time import main, step_times


def test_each_step_is_timed_in_both_halves():
  times = step_times(3, 8, None)
  assert len(times) == 8
  assert all(plan > 0 and commit > 0 for plan, commit in times)


def test_the_table_has_a_row_for_each_number_of_rows(capsys: pytest.CaptureFixture[str]):
  assert main(["--rows", "2,16", "--steps", "4", "--repeats", "1"]) == 0
  printed = capsys.readouterr().out
  assert "of 0.15 ms" in printed
  assert [line.split()[1] for line in printed.splitlines() if " us " in line] == ["2", "16"]
