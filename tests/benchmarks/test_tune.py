"""Tuning tries cuts and keeps the fastest; what is on trial is what a kernel gets."""

import pytest

from benchmarks.kernels.gpu_report import TINY_SHAPE
from benchmarks.kernels.tune import candidates, entries, tune
from pallas_kernels.gpu import blocks
from pallas_kernels.gpu.blocks import Blocks, choose, questions, trying
from pallas_kernels.gpu.tuned_blocks import devices, read_table, table_text, tuned

RULE = Blocks(columns=32, inner=64, warps=4, stages=4)
OTHER = Blocks(columns=16, inner=64, warps=4, stages=3)


def test_a_trial_comes_before_the_table_and_the_table_before_the_rule(monkeypatch):
  def ask():
    return choose("kernel", (16, 8), lambda: RULE)

  assert ask() == RULE
  monkeypatch.setattr(blocks, "tuned", lambda device_kind: {("kernel", (16, 8)): OTHER})
  assert ask() == OTHER
  with questions() as asked, trying(("kernel", (16, 8)), RULE):
    assert ask() == RULE
  assert asked == {("kernel", (16, 8)): RULE}
  assert ask() == OTHER


@pytest.mark.slow
def test_every_product_of_a_step_is_tuned_once():
  lines = []
  found = tune([TINY_SHAPE, TINY_SHAPE], rows=4, most=2, progress=lines.append)
  assert {kernel for kernel, _ in found} == {"row_matmul", "expert_hidden", "expert_down"}
  # Query, key and value; the router; after attention, also with 4 bits in groups of 32; the head.
  assert {sizes for kernel, sizes in found if kernel == "row_matmul"} == {
    (16, 128, 64), (16, 8, 64), (16, 64, 64), (16, 64, 64, 4, 32), (16, 256, 64),
  }  # fmt: skip
  assert all(0 < fast <= slow for _, fast, slow in found.values())
  assert sum("us by rule" in line for line in lines) == len(found)


@pytest.mark.slow
def test_without_time_the_rules_cut_alone_is_measured():
  lines = []
  found = tune([TINY_SHAPE], rows=4, most=3, seconds=0.0, progress=lines.append)
  assert lines[0].startswith(f"{len(found)} products; {len(found)} of ")
  assert all(fast == slow for _, fast, slow in found.values())


@pytest.mark.slow
def test_cuts_are_compared_with_the_rules_and_not_with_the_tables(monkeypatch):
  question = ("row_matmul", (16, 64, 64))
  monkeypatch.setattr(blocks, "tuned", lambda device_kind: {question: OTHER})
  found = tune([TINY_SHAPE], rows=4, most=1)
  assert found[question][0] != OTHER


def test_what_wins_by_three_per_cent_is_an_entry_of_the_devices_file(tmp_path):
  question = ("row_matmul", (16, 64, 2048))
  assert entries({question: (OTHER, 97.1e-6, 100e-6)}) == []
  (entry,) = entries({question: (OTHER, 96.9e-6, 100e-6)})
  assert (entry["us"], entry["rule_us"]) == pytest.approx((96.9, 100))
  path = tmp_path / "tuned.json"
  path.write_text(table_text("NVIDIA X", "2026-11-30", "by hand", [entry]))
  assert read_table(path, "NVIDIA X") == {question: OTHER}


def test_the_rule_is_tried_first_and_then_steps_that_divide_the_axis():
  tried = list(candidates(("row_matmul", (16, 6144, 384)), RULE))
  assert tried[0] == RULE
  assert len(set(tried)) == len(tried) > 20
  assert {blocks.inner for blocks in tried} == {64, 128}
  assert {blocks.warps for blocks in tried} == {1, 2, 4}
  assert {blocks.columns for blocks in tried} == {16, 32, 64, 128}
  few = list(candidates(("row_matmul", (16, 32, 384)), RULE))
  assert {blocks.columns for blocks in few} == {16, 32}


def test_cuts_that_won_somewhere_are_tried_next():
  won = {cut for device in devices() for cut in tuned(device).values()}
  tried = list(candidates(("row_matmul", (16, 6144, 2048)), RULE))
  assert set(tried[1 : 1 + len(won)]) == won
