"""A decode loop of DeepSeek-V2-Lite's shape, compiled for real GPUs: one graph, latents in place."""

import jax
import pytest

from benchmarks.kernels.decode_program import STATE, decode_program
from lynx_jax.routing import Lynx
from pallas_kernels import gates
from tests.families.test_deepseek_v2 import LITE
from tests.pallas_kernels.gates.targets import TARGETS

# The run-time shape checker takes arrays only, and the weights here are abstract.
pytestmark = pytest.mark.usefixtures("own_errors")
OWN = {"row_matmul", "latent_attention", "join_attention", "lynx_route", "expert_hidden", "expert_down"}


def compiled(target: str, layers: int) -> gates.Report:
  fn, args = decode_program(LITE | {"num_hidden_layers": layers}, Lynx(1.125, 2))
  report = gates.compile_for(fn, args, target, donate_argnums=(STATE,))
  gates.captured(report)
  gates.no_spills(kernel for kernel in report.kernels.values() if kernel.name.split("__")[0] in OWN)
  gates.no_copy_of(report, min(leaf.size * 2 for leaf in jax.tree.leaves(args[STATE].cache)))
  launches = gates.kernel_launches(report)
  assert sum(launch.startswith("latent_attention") for launch in launches) == layers
  assert {launch.split("__")[0] for launch in launches} >= OWN
  return report


def test_a_dense_layer_and_one_of_experts_are_one_graph_that_copies_no_cache():
  compiled("h100", 2)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_all_27_layers_are_one_graph_that_copies_nothing(target: str):
  # The weights are 31 GB, the cache 0.5 GB; what sampling needs for 16 rows of 102,400 scores is most of this.
  assert compiled(target, 27).temporary_bytes < 64e6
