"""The products of a decode step, compiled for real GPUs at released models' sizes."""

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import gates
from pallas_kernels.gates.forms import HELD
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.row_matmul.gate_programs import programs
from tests.pallas_kernels.gates.targets import TARGETS, models


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(MODEL_SHAPES))
def test_a_product_is_one_launch_on_tensor_cores_without_spills(model: str, target: str):
  for name, (fn, args) in programs(MODEL_SHAPES[model]).items():
    report = gates.compile_for(fn, args, target)
    assert gates.kernel_launches(report) == ["row_matmul"], name
    kernels = report.kernels.values()
    gates.no_spills(kernels)
    gates.uses_tensor_cores(kernels)
    gates.within_limits(report, kernels, blocks_per_sm=2 if "T=16" in name else 1)
    gates.no_copy_of(report, args[1].size * 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [16, 64])
def test_float16_rows_that_are_normed_first_spill_nothing_either(rows: int, target: str):
  fn, args = programs(MODEL_SHAPES["Qwen3-30B-A3B"])[f"norm, query, key, value, T={rows}"]
  report = gates.compile_for(fn, [jax.ShapeDtypeStruct(arg.shape, jnp.float16) for arg in args], target)
  assert gates.kernel_launches(report) == ["row_matmul"]
  gates.no_spills(report.kernels.values())
  gates.uses_tensor_cores(report.kernels.values())
  gates.within_limits(report, report.kernels.values(), blocks_per_sm=2 if rows == 16 else 1)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
  ("held", "program"),
  [
    ("int8", "norm, query, key, value, T=16"),
    ("int8", "output, residual, T=64"),
    ("int8, groups of 128", "output, residual, T=16"),
    ("int4, groups of 128, zeros", "output, residual, T=64"),
    ("MXFP4", "output, residual, T=16"),
    ("fp8", "output, residual, T=16"),
    ("fp8, blocks of 128", "output, residual, T=64"),
  ],
)
def test_weights_of_few_bits_keep_every_gate(held: str, program: str, target: str):
  fn, args = programs(MODEL_SHAPES["Qwen3-30B-A3B"], HELD[held])[program]
  report = gates.compile_for(fn, args, target)
  assert gates.kernel_launches(report) == ["row_matmul"]
  kernels = report.kernels.values()
  gates.no_spills(kernels)
  gates.uses_tensor_cores(kernels)
  gates.packed_in_registers(kernels)
  gates.within_limits(report, kernels, blocks_per_sm=6 if "T=16" in program else 2)
  gates.no_copy_of(report, args[1].nbytes // 2)
