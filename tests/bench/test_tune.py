"""Tuning tries cuts and keeps the fastest; what is on trial is what a kernel gets."""

from lynx_jax.bench.gpu_report import TINY_SHAPE
from lynx_jax.bench.tune import candidates, tune
from pallas_kernels import blocks
from pallas_kernels.blocks import Blocks, choose, questions, trying

RULE = Blocks(columns=32, inner=64, warps=4, stages=4)
OTHER = Blocks(columns=16, inner=64, warps=4, stages=3)


def test_a_trial_comes_before_the_table_and_the_table_before_the_rule(monkeypatch):
  def ask():
    return choose("kernel", (16, 8), lambda: RULE)

  assert ask() == RULE
  monkeypatch.setitem(blocks.TUNED, "", {("kernel", (16, 8)): OTHER})
  assert ask() == OTHER
  with questions() as asked, trying(("kernel", (16, 8)), RULE):
    assert ask() == RULE
  assert asked == {("kernel", (16, 8)): RULE}
  assert ask() == OTHER


def test_every_product_of_a_step_is_tuned():
  found = tune(TINY_SHAPE, rows=4, most=2)
  assert {kernel for kernel, _ in found} == {"row_matmul", "expert_hidden", "expert_down"}
  assert all(fast <= slow for _, fast, slow in found.values())


def test_the_rule_is_tried_first_and_then_steps_that_divide_the_axis():
  tried = list(candidates(RULE, 384))
  assert tried[0] == RULE
  assert len(set(tried)) == len(tried) > 20
  assert {blocks.inner for blocks in tried} == {64, 128}
  assert {blocks.warps for blocks in tried} == {1, 2, 4}
