"""int8 beside a checkpoint's own dtype, at a size that says nothing of speed."""

import json

import pytest

from benchmarks import int8_step_time
from lynx_jax.testing import random_checkpoint


@pytest.mark.slow
def test_both_forms_are_timed(tmp_path, capsys):
  assert random_checkpoint.main([str(tmp_path / "model"), "--tiny", "olmoe"]) == 0
  sizes = ["--batch", "3", "--steps", "2", "--repeats", "2", "--json", str(tmp_path / "rows.json")]
  assert int8_step_time.main([str(tmp_path / "model"), *sizes]) == 0
  rows = json.loads((tmp_path / "rows.json").read_text())
  assert [row["batch"] for row in rows] == [3]
  assert all(min(row["own_ms"], row["int8_ms"], row["speedup"]) > 0 for row in rows)
  assert int8_step_time.main([str(tmp_path / "none")]) == 2
  assert "error: " in capsys.readouterr().err
