"""Figures of a small random model: what is measured holds together, and every picture is drawn."""

import itertools
import json

import numpy as np
import pytest

from benchmarks.figures import confidence, expert_use, latency, quality
from benchmarks.figures.figure_files import Figures, make_figures
from benchmarks.figures.quality_tables import quality_tables
from lynx_jax.evals import frontier
from lynx_jax.routing import OEA, Auto, Prune
from tests.small_models import random_prompts, small_params, small_spec

pytest.importorskip("matplotlib")


def quiet(message):
  pass


@pytest.fixture(scope="module")
def batches():
  return [np.array(random_prompts([12] * 4, seed=seed), np.int32) for seed in range(3)]


def is_png(path):
  return path.read_bytes().startswith(b"\x89PNG")


def test_use_over_a_data_set_and_in_a_step(batches, tmp_path):
  found = expert_use.measure_use(small_params(), batches)
  whole, step = np.array(found["data_set"]), np.array(found["one_step"])
  np.testing.assert_allclose(whole.sum(axis=1), 1)
  np.testing.assert_allclose(step.sum(axis=1), 1)
  assert (step > 0).sum() < (whole > 0).sum() == 8
  expert_use.draw_use(found, tmp_path / "use.png")
  assert is_png(tmp_path / "use.png")


@pytest.mark.slow
def test_both_halves_are_moved_into_both_kinds_of_sets(batches, tmp_path):
  params = small_params()
  rows = confidence.measure_confidence(params, batches)
  top_k = params.spec.moe_specs[0].top_k
  assert {(row["set"], row["group"]) for row in rows} == set(itertools.product(("own", "votes"), confidence.GROUPS))
  assert {row["keep"] for row in rows if row["set"] == "own"} == set(range(1, top_k))
  for kind in ("own", "votes"):
    for group in confidence.GROUPS:
      # The larger the set, the less is lost.
      costs = [row["divergence"] for row in rows if (row["set"], row["group"]) == (kind, group)]
      assert costs[0] >= costs[-1] >= 0
      assert costs[0] > 0
  confidence.draw_confidence(rows, tmp_path / "confidence.png")
  assert is_png(tmp_path / "confidence.png")


@pytest.mark.slow
def test_quality_at_equal_experts(batches, tmp_path, monkeypatch):
  few = {"auto": (Auto(0.5), Auto(2.5)), "oea": (OEA(1),), "prune": (Prune(1),)}
  monkeypatch.setattr(frontier, "knobs", lambda experts, top_k, most: few)
  found = quality.measure_quality(small_params(), batches, quiet)
  assert [point["policy"] for point in found["curves"]["auto"]] == ["topk", "auto:share=0.5", "auto:share=2.5"]
  own = found["curves"]["oea"][0]["experts"][0]
  assert [row["experts"] / own for row in found["equal"]] == pytest.approx(list(quality.SHARES))
  for row in found["equal"]:
    for cost in row["costs"].values():
      value, low, high = cost["divergence"]
      assert low <= value <= high
  tables = quality_tables(found)
  cells = {name: [[str(cell) for cell in column.cells] for column in table.columns] for name, table in tables.items()}
  assert [str(column.header) for column in tables["equal_experts"].columns][1:] == ["Auto", "OEA", "Prune"]
  best = sum(bool(row["costs"]) for row in found["equal"])
  assert best >= 3
  assert sum(cell.startswith("**") for column in cells["equal_experts"] for cell in column) == best
  assert "`auto:share=2.5`" in cells["knobs"][0]
  quality.draw_quality(found, tmp_path / "quality.png")
  timed = {"rows": [{"decode_experts": e, "experts": e, "decode_ms": 1 + e, "prefill_ms": 5} for e in (2, 4, 6)]}
  quality.draw_trade(found, timed, tmp_path / "trade.png")
  assert is_png(tmp_path / "quality.png")
  assert is_png(tmp_path / "trade.png")


@pytest.mark.slow
def test_times_against_rows_and_experts(tmp_path):
  params = small_params(small_spec(context=256))
  rows = latency.measure_batches(params, [1, 2], quiet)
  assert [row["batch"] for row in rows] == [1, 2]
  found = latency.measure_experts(params, 2, quiet, repeats=1)
  assert found["rows"][0]["experts"] == 8
  assert all(row["decode_experts"] <= row["experts"] for row in found["rows"])
  latency.draw_batches(rows, tmp_path / "rows.png")
  latency.draw_experts(found | {"prefill_length": 128}, tmp_path / "experts.png")
  assert is_png(tmp_path / "rows.png")
  assert is_png(tmp_path / "experts.png")


def test_every_policy_has_its_knobs():
  families = frontier.knobs(experts=32, top_k=4, most=27)
  assert set(families) == {"auto", "lynx", "oea", "xshare", "mass_floor", "budget", "count_vote", "prune"}
  for family in families.values():
    assert len(set(family)) == len(family) >= 3
    assert all(policy.experts_per_token(4) <= 4 for policy in family)


def test_pictures_are_drawn_again_from_what_was_measured(tmp_path):
  rows = [{"batch": batch, "step_ms": 2.0 * batch, "active_experts": 3.0} for batch in (1, 2)]
  (tmp_path / "batch_latency.json").write_text(json.dumps(rows))
  again = Figures(out=tmp_path, only=("batch_latency",), redraw=True)
  assert make_figures(pytest.fail, pytest.fail, again, quiet) == [tmp_path / "batch_latency.png"]
  with pytest.raises(ValueError, match=r"use.json does not exist: measure it first, with --only expert_use"):
    make_figures(pytest.fail, pytest.fail, Figures(out=tmp_path, only=("expert_use",), redraw=True), quiet)


def test_wrong_requests(tmp_path):
  with pytest.raises(ValueError, match="unknown figure best: choose from batch_latency"):
    Figures(out=tmp_path, only=("best",))
  with pytest.raises(ValueError, match="figures expert_use, confidence, quality judge text: give --text"):
    Figures(out=tmp_path)
