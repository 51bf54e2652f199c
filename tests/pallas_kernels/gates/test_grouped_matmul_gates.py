"""A prefill's grouped product, compiled for real GPUs at released models' sizes."""

import pytest

from pallas_kernels import gates
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.grouped_matmul.gate_programs import programs


@pytest.mark.parametrize("target", gates.TARGETS)
@pytest.mark.parametrize("model", MODEL_SHAPES)
def test_a_grouped_product_keeps_every_gate(model: str, target: str):
  for fn, args in programs(MODEL_SHAPES[model]).values():
    report = gates.compile_for(fn, args, target)
    kernels = [report.kernels["grouped_matmul"]]
    gates.no_spills(kernels)
    gates.uses_tensor_cores(kernels)
    gates.within_limits(report, kernels, blocks_per_sm=2)
    gates.no_copy_of(report, args[1].size * 2)
    gates.captured(report)
