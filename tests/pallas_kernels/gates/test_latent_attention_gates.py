"""Attention over latents, compiled for real GPUs at the sizes of DeepSeek's models."""

import pytest

from pallas_kernels import gates
from pallas_kernels.append_latents import gate_programs as appending
from pallas_kernels.latent_attention.gate_programs import HEADS, programs
from tests.pallas_kernels.gates.targets import TARGETS, models

pytestmark = pytest.mark.usefixtures("own_errors")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", models(HEADS))
def test_latents_are_read_in_one_launch_or_two_on_tensor_cores(model: str, target: str):
  for name, (fn, args) in programs(HEADS[model]).items():
    report = gates.compile_for(fn, args, target)
    assert gates.kernel_launches(report) in (["latent_attention"], ["latent_attention", "join_attention"]), name
    gates.no_spills(report.kernels.values())
    gates.uses_tensor_cores([report.kernels["latent_attention"]])
    gates.within_limits(report, report.kernels.values())
    gates.no_copy_of(report, args[1].size * 2)


@pytest.mark.parametrize("target", TARGETS)
def test_latents_are_written_in_place_in_one_launch(target: str):
  for name, (fn, args) in appending.programs().items():
    report = gates.compile_for(fn, args, target, donate_argnums=appending.CACHES)
    assert len(gates.kernel_launches(report)) == 1, name
    gates.no_copy_of(report, args[1].size * 2)
    assert report.temporary_bytes < 2**16, name
