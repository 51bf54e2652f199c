"""Attention of prompt chunks, compiled for real GPUs at released models' sizes."""

import pytest

from pallas_kernels import gates
from pallas_kernels.chunk_attention.gate_programs import LATENT_HEADS, latent_program, programs
from pallas_kernels.gates.shapes import MODEL_SHAPES
from tests.pallas_kernels.gates.targets import TARGETS, models

pytestmark = pytest.mark.usefixtures("own_errors")

# Models with the same heads are one program.
DISTINCT = {
  (shape.heads, shape.kv_heads, shape.head_dim, shape.window, shape.sinks): model
  for model, shape in MODEL_SHAPES.items()
}.values()


def check(program, target: str, blocks_per_sm: int) -> None:
  """One launch into an array of zeros, on tensor cores, without spills or a copy of the pool."""
  fn, args = program
  report = gates.compile_for(fn, args, target)
  assert [launch for launch in gates.kernel_launches(report) if "chunk" in launch] == ["chunk_attention"]
  assert len(gates.kernel_launches(report)) == 2
  kernel = report.kernels["chunk_attention"]
  gates.no_spills(report.kernels.values())
  gates.uses_tensor_cores([kernel])
  gates.within_limits(report, report.kernels.values(), blocks_per_sm=blocks_per_sm)
  gates.no_copy_of(report, args[1].size * 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(DISTINCT))
def test_chunks_are_attended_in_one_launch_on_tensor_cores(model: str, target: str):
  for program in programs(MODEL_SHAPES[model]).values():
    check(program, target, blocks_per_sm=2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(LATENT_HEADS))
def test_latents_are_attended_in_one_launch_on_tensor_cores(model: str, target: str):
  check(latent_program(LATENT_HEADS[model]), target, blocks_per_sm=1)
