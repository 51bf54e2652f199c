"""The recommended policy beside Prune, on a small random model."""

import json

import numpy as np
import pytest

from lynx_jax.evals import auto_check
from tests.small_models import random_prompts, small_params


@pytest.mark.slow
def test_it_is_measured_at_each_batch_and_mix(tmp_path, monkeypatch, capsys):
  random = small_params()
  monkeypatch.setattr(auto_check, "_SHARES", (0.25, 2.5))
  monkeypatch.setattr(auto_check.lynx_jax, "load", lambda path: random)
  tokens = np.array(random_prompts([9] * 12), np.int32).reshape(-1)
  monkeypatch.setattr(auto_check, "token_streams", lambda params, texts: {"a": tokens})
  (tmp_path / "a.txt").write_text("read by nobody")
  flags = ["--batch", "4", "--mix", "mixed", "--windows", "2", "--length", "9"]
  auto_check.main(["--text", str(tmp_path / "a.txt"), *flags, "--json", str(tmp_path / "found.json")])
  rows = json.loads((tmp_path / "found.json").read_text())
  assert [(row["mix"], row["batch"]) for row in rows] == [("mixed", 4)]
  for row in rows:
    cost = row["cost"]
    assert cost["experts"]["value"] < cost["own_experts"]["value"]
    assert cost["divergence"]["value"] > 0
    # With two experts a token Prune has one size, and so no two to read off between.
    assert row["prune"] is None
    assert all(times["low"] <= times["value"] <= times["high"] for times in row["prune_each"].values())
  assert "| mixed | 4     |" in capsys.readouterr().out


def test_a_batch_that_the_text_cannot_fill(tmp_path, monkeypatch):
  (tmp_path / "a.txt").write_text("a few words")
  with pytest.raises(SystemExit, match="no mixed batch of 64 rows of 4 tokens"):
    auto_check.main(["--text", str(tmp_path / "a.txt"), "--batch", "64", "--mix", "mixed", "--length", "4"])
