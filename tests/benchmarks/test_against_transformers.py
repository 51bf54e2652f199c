"""The comparison with transformers: equal work on both sides, at a size that says nothing of speed."""

import json

import pytest

from benchmarks import against_transformers
from lynx_jax.testing import random_checkpoint
from pallas_kernels import cpu as native


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
  pytest.importorskip("transformers")
  out = tmp_path_factory.mktemp("random") / "model"
  assert random_checkpoint.main([str(out), "--tiny", "olmoe", "--dtype", "float32"]) == 0
  return out


@pytest.mark.slow
def test_both_compute_the_same_logits(checkpoint, tmp_path, capsys):
  sizes = ["--batch", "3", "--prompt-length", "5", "--steps", "3", "--repeats", "2"]
  policies = ["--policy", "topk", "--policy", "lynx:alpha=1,beta=2"]
  assert against_transformers.main([str(checkpoint), *sizes, *policies, "--json", str(tmp_path / "rows.json")]) == 0
  rows = json.loads((tmp_path / "rows.json").read_text())
  assert [(row["batch"], row["policy"]) for row in rows] == [
    (batch, policy) for batch in (3,) for policy in ("topk", "lynx:alpha=1,beta=2")
  ]
  for row in rows:
    assert min(row[f"{whose}{what}_ms"] for whose in ("", "their_") for what in ("prefill", "step")) > 0
    assert row["reading_ms"] is None if native.unavailable() else row["reading_ms"] > 0
    if row["policy"] == "topk":
      assert row["logits_differ"] < 1e-4
    else:
      assert row["logits_differ"] is None
  table = capsys.readouterr().out
  assert "transformers and lynx_jax" in table
  assert "at most" in table


def test_what_cannot_be_measured_is_said(checkpoint, tmp_path, capsys):
  assert against_transformers.main([str(tmp_path / "none")]) == 2
  assert against_transformers.main([str(checkpoint), "--batch", "2", "--prompt-length", "100000"]) == 2
  errors = capsys.readouterr().err
  assert "error: " in errors
  assert "do not fit the model's context" in errors.replace("\n", " ")
