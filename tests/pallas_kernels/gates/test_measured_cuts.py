"""The cuts that were measured on a GPU, compiled for it: they spill nothing and fit."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import gates, row_matmul
from pallas_kernels.expert_ffn import expert_ffn
from pallas_kernels.expert_ffn.gate_programs import programs
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.gpu.blocks import questions, trying
from pallas_kernels.gpu.tuned_blocks import devices, tuned

# An H200 is an H100 with other memory.
TARGET_OF = {"NVIDIA H100 80GB HBM3": "h100", "NVIDIA H200": "h100"}
ROWS = 16


def product_of(sizes):
  """A normed product that asks for a cut of these sizes."""
  _, columns, inner = sizes
  x, weight, scale = (jax.ShapeDtypeStruct(size, jnp.bfloat16) for size in ((ROWS, inner), (columns, inner), (inner,)))

  def product(x, weight, scale):
    return row_matmul(x, weight, norm_scale=scale, norm_eps=1e-6, implementation="pallas")

  return product, (x, weight, scale)


@functools.cache
def experts_by_question():
  """For each cut that released models' experts ask for, a program that does."""
  found = {}
  for shape in MODEL_SHAPES.values():
    if shape.biased:
      continue
    _, args = programs(shape)[f"decode, T={ROWS}"]

    def run(x, ids, weights, gate_up, down, valid, tiles):
      return expert_ffn(x, ids, weights, gate_up, down, valid=valid, tiles=tiles, implementation="pallas")

    with questions() as asked:
      jax.eval_shape(run, *args)
    found |= dict.fromkeys(asked, (run, args))
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  ("kernel", "device"), sorted({(question[0], device) for device in devices() for question in tuned(device)})
)
def test_measured_cuts_keep_the_gates(kernel, device):
  cuts = {question: blocks for question, blocks in tuned(device).items() if question[0] == kernel}
  for question, blocks in cuts.items():
    fn, args = product_of(question[1]) if kernel == "row_matmul" else experts_by_question()[question]

    # A function of its own, as JAX keeps the trace of one that it knows.
    def once(*args, fn=fn):
      return fn(*args)

    with trying(question, blocks), questions() as asked:
      report = gates.compile_for(once, args, TARGET_OF[device])
    assert asked[question] == blocks
    kernels = [report.kernels[kernel]]
    gates.no_spills(kernels)
    gates.uses_tensor_cores(kernels)
    gates.within_limits(report, kernels)
