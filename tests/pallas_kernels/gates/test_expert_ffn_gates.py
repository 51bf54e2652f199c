"""An MoE layer's experts, compiled for real GPUs at released models' sizes."""

import pytest

from pallas_kernels import gates
from pallas_kernels.expert_ffn.gate_programs import programs
from pallas_kernels.gates.shapes import MODEL_SHAPES


@pytest.mark.parametrize("target", gates.TARGETS)
@pytest.mark.parametrize("model", MODEL_SHAPES)
def test_experts_keep_every_gate(model: str, target: str):
  shape = MODEL_SHAPES[model]
  for name, (fn, args) in programs(shape).items():
    report = gates.compile_for(fn, args, target)
    launches = gates.kernel_launches(report)
    kernels = [report.kernels[kernel] for kernel in ("expert_hidden", "expert_down")]
    gates.no_spills(kernels)
    gates.uses_tensor_cores(kernels)
    gates.within_limits(report, kernels, blocks_per_sm=2)
    gates.no_copy_of(report, shape.experts * shape.width * shape.expert_width * 2)
    gates.captured(report)
    if name.startswith("decode"):
      # The last one is XLA's: the weighted sum over a row's experts.
      assert launches[:2] == ["expert_hidden", "expert_down"], name
      assert len(launches) == 3, name
