"""Routing, compiled for real GPUs at released models' sizes: one launch, whatever the policy."""

import pytest

from pallas_kernels import gates
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.lynx_route import Router
from pallas_kernels.lynx_route.gate_programs import (
  POLICIES,
  ROUTERS,
  Program,
  programs,
  programs_of_router,
  programs_with_terms,
  routing,
)
from tests.pallas_kernels.gates.targets import TARGETS, models

# Models that route alike are one program: Qwen2-57B-A14B and OLMoE-1B-7B.
DISTINCT = {(shape.experts, shape.top_k, shape.renormalize): model for model, shape in MODEL_SHAPES.items()}.values()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(DISTINCT))
def test_every_policy_is_one_launch_without_spills(model: str, target: str):
  check(programs(MODEL_SHAPES[model]), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(DISTINCT))
def test_own_rows_weights_costs_and_limits_are_one_launch_without_spills(model: str, target: str):
  check(programs_with_terms(MODEL_SHAPES[model]), target)


@pytest.mark.parametrize(
  ("target", "policies"), [pytest.param("a100", ("lynx",), marks=pytest.mark.slow), ("h100", ("lynx", "topk"))]
)
@pytest.mark.parametrize("model", models(ROUTERS))
def test_every_router_is_one_launch_without_spills(model: str, target: str, policies: tuple[str, ...]):
  check(programs_of_router(model, policies), target)


def check(compiled: dict[str, Program], target: str) -> None:
  for name, (fn, args) in compiled.items():
    report = gates.compile_for(fn, args, target)
    assert gates.kernel_launches(report) == ["lynx_route"], name
    gates.no_spills(report.kernels.values())
    gates.within_limits(report, report.kernels.values())
    gates.captured(report)


@pytest.mark.parametrize("policy", ["topk", "lynx"])
@pytest.mark.parametrize(("rows", "experts", "top_k"), [(32, 256, 8), (256, 512, 16)])
def test_large_batches_of_many_experts_are_one_launch(rows: int, experts: int, top_k: int, policy: str):
  report = gates.compile_for(*routing(rows, experts, top_k, POLICIES[policy], Router()), "h100")
  assert gates.kernel_launches(report) == ["lynx_route"]
  if experts == 256:
    gates.no_spills(report.kernels.values())
