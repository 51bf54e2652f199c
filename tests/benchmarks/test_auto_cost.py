"""The recommended policy beside Prune, on a small random model."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.claims import auto_cost
from benchmarks.claims.auto_bound import spent_by_auto
from lynx_jax.routing import Auto
from tests.small_models import random_prompts, small_params


@pytest.mark.slow
def test_it_is_measured_at_each_batch_and_mix(tmp_path, monkeypatch, capsys):
  random = small_params()
  monkeypatch.setattr(auto_cost, "_SHARES", (0.25, 2.5))
  monkeypatch.setattr(auto_cost.lynx_jax, "load", lambda path: random)
  tokens = np.array(random_prompts([9] * 12), np.int32).reshape(-1)
  monkeypatch.setattr(auto_cost, "token_streams", lambda params, texts: {"a": tokens})
  (tmp_path / "a.txt").write_text("read by nobody")
  flags = ["--batch", "4", "--mix", "mixed", "--windows", "2", "--length", "9"]
  auto_cost.main(["--text", str(tmp_path / "a.txt"), *flags, "--json", str(tmp_path / "found.json")])
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


class KeepsOne(Auto):
  """Promises what `Auto` does, and does not keep it."""

  def keep_set(self, scores):
    return jnp.arange(scores.num_experts) == scores.ids[0, 0]


def test_what_is_spent_of_the_bound_is_seen():
  params = small_params()
  batches = [np.array(random_prompts([9] * 6, seed=seed), np.int32) for seed in (1, 2)]
  kept = spent_by_auto(params, batches, Auto(1.5))
  layers = len(params.spec.moe_layers)
  assert kept.loss.shape == kept.allowed.shape == kept.saved.shape == (2 * layers * 8,)
  assert 0 < kept.saved.mean() < 1
  assert (kept.loss <= kept.allowed + 1e-5).all()
  assert (kept.loss[kept.allowed == 0] == 0).all()
  broken = spent_by_auto(params, batches, KeepsOne(0.1))
  assert broken.shares.max() > 1


def test_the_bound_is_tabled_and_written(tmp_path, monkeypatch, capsys):
  random = small_params()
  monkeypatch.setattr(auto_cost.lynx_jax, "load", lambda path: random)
  tokens = np.array(random_prompts([9] * 12), np.int32).reshape(-1)
  monkeypatch.setattr(auto_cost, "token_streams", lambda params, texts: {"a": tokens})
  (tmp_path / "a.txt").write_text("read by nobody")
  flags = ["--bound", "--batch", "4", "--mix", "mixed", "--windows", "2", "--length", "9"]
  auto_cost.main(["--text", str(tmp_path / "a.txt"), *flags, "--json", str(tmp_path / "found.json")])
  (row,) = json.loads((tmp_path / "found.json").read_text())
  assert (row["mix"], row["batch"], row["above"]) == ("mixed", 4, 0)
  assert 0 < row["mean"] <= row["most"] <= 1
  assert "| mixed | 4     |" in capsys.readouterr().out


def test_a_batch_that_the_text_cannot_fill(tmp_path, monkeypatch):
  (tmp_path / "a.txt").write_text("a few words")
  with pytest.raises(SystemExit, match="no mixed batch of 64 rows of 4 tokens"):
    auto_cost.main(["--text", str(tmp_path / "a.txt"), "--batch", "64", "--mix", "mixed", "--length", "4"])
