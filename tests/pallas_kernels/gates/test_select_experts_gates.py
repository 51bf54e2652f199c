"""Routing, compiled for real GPUs at released models' sizes: one launch, whatever the rule."""

import pytest

from pallas_kernels import gates
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.select_experts import Router
from pallas_kernels.select_experts.gate_programs import ROUTERS, RULES, Program, programs, programs_of_router, routing


@pytest.mark.parametrize("target", gates.TARGETS)
@pytest.mark.parametrize("model", MODEL_SHAPES)
def test_every_rule_is_one_launch_without_spills(model: str, target: str):
  check(programs(MODEL_SHAPES[model]), target)


@pytest.mark.parametrize(("target", "rules"), [("a100", ("lynx",)), ("h100", ("lynx", "topk"))])
@pytest.mark.parametrize("model", ROUTERS)
def test_every_router_is_one_launch_without_spills(model: str, target: str, rules: tuple[str, ...]):
  check(programs_of_router(model, rules), target)


def check(compiled: dict[str, Program], target: str) -> None:
  for name, (fn, args) in compiled.items():
    report = gates.compile_for(fn, args, target)
    assert gates.kernel_launches(report) == ["select_experts"], name
    gates.no_spills(report.kernels.values())
    gates.within_limits(report, report.kernels.values())
    gates.captured(report)


@pytest.mark.parametrize("rule", ["topk", "lynx"])
@pytest.mark.parametrize(("rows", "experts", "top_k"), [(32, 256, 8), (256, 512, 16)])
def test_large_batches_of_many_experts_are_one_launch(rows: int, experts: int, top_k: int, rule: str):
  report = gates.compile_for(*routing(rows, experts, top_k, RULES[rule], Router()), "h100")
  assert gates.kernel_launches(report) == ["select_experts"]
  if experts == 256:
    gates.no_spills(report.kernels.values())
