"""What a decode step does between its projections, compiled for real GPUs at released models' sizes."""

import pytest

from pallas_kernels import gates
from pallas_kernels.append_heads import gate_programs as appending
from pallas_kernels.decode_attention import gate_programs as attending
from pallas_kernels.gates.shapes import MODEL_SHAPES
from tests.pallas_kernels.gates.targets import TARGETS, models

# Models with the same heads are one program: DeepSeek-V2-Lite, expanded, and OLMoE-1B-7B.
DISTINCT = {
  (shape.heads, shape.kv_heads, shape.head_dim, shape.window, shape.sinks): model
  for model, shape in MODEL_SHAPES.items()
}.values()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(DISTINCT))
def test_attention_is_one_launch_or_two_on_tensor_cores(model: str, target: str):
  for name, (fn, args) in attending.programs(MODEL_SHAPES[model]).items():
    report = gates.compile_for(fn, args, target)
    assert gates.kernel_launches(report) in (["decode_attention"], ["decode_attention", "join_attention"]), name
    gates.no_spills(report.kernels.values())
    gates.uses_tensor_cores([report.kernels["decode_attention"]])
    gates.within_limits(report, report.kernels.values(), blocks_per_sm=2)
    gates.no_copy_of(report, args[1].size * 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(DISTINCT))
def test_the_cache_is_written_in_place_in_one_launch(model: str, target: str):
  for name, (fn, args) in appending.programs(MODEL_SHAPES[model]).items():
    report = gates.compile_for(fn, args, target, donate_argnums=appending.CACHES)
    assert gates.kernel_launches(report) == ["append_heads"], name
    gates.no_spills(report.kernels.values())
    gates.within_limits(report, report.kernels.values(), blocks_per_sm=2)
    assert report.temporary_bytes < 2**16, name
