"""An MoE layer's experts, compiled for real GPUs at released models' sizes."""

import pytest

from pallas_kernels import gates
from pallas_kernels.expert_ffn.gate_programs import programs
from pallas_kernels.gates.forms import HELD
from pallas_kernels.gates.shapes import MODEL_SHAPES
from tests.pallas_kernels.gates.targets import TARGETS, models


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(MODEL_SHAPES))
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


# Forms and sizes of released checkpoints: gpt-oss has biases and widths that no block of 128 inputs divides.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
  ("held", "model", "program"),
  [
    ("int8", "Qwen3-30B-A3B", "decode, T=16"),
    ("int4, groups of 32", "Qwen3-30B-A3B", "decode, T=16"),
    ("int4, groups of 128, zeros", "Qwen3-30B-A3B", "decode, T=16"),
    ("fp8, blocks of 128", "Qwen3-30B-A3B", "decode, T=16"),
    ("MXFP4", "gpt-oss-20b", "decode, T=16"),
    ("MXFP4", "gpt-oss-20b", "prefill, T=2048"),
  ],
)
def test_weights_of_few_bits_keep_every_gate(held: str, model: str, program: str, target: str):
  shape, kept = MODEL_SHAPES[model], HELD[held]
  fn, args = programs(shape, kept)[program]
  report = gates.compile_for(fn, args, target)
  kernels = [report.kernels[kernel] for kernel in ("expert_hidden", "expert_down")]
  gates.no_spills(kernels)
  gates.uses_tensor_cores(kernels)
  gates.within_limits(report, kernels, blocks_per_sm=3 if program.startswith("decode") else 2)
  gates.captured(report)
  launches = gates.kernel_launches(report)
  if program.startswith("decode"):
    gates.packed_in_registers(kernels)
    # As many as in bfloat16.
    assert launches[:2] == ["expert_hidden", "expert_down"]
    assert len(launches) == 3
    # No array is as large as one expert in a hundred.
    gates.no_copy_of(report, min(kept.abstract(*args[place].shape).nbytes for place in (3, 4)) // 100)
