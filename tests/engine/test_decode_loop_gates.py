"""Whole decode loops of released models, compiled for real GPUs with abstract weights."""

from typing import Any

import jax
import pytest

from benchmarks.kernels.decode_program import COMPILED, STATE, decode_program
from lynx_jax.models.released import RELEASED
from lynx_jax.placement import Role
from lynx_jax.routing import Lynx, RoutingPolicy
from pallas_kernels import gates
from pallas_kernels.gates.forms import HELD
from tests.goldens.kernels import same_as_recorded

# The run-time shape checker takes arrays only, and the weights here are abstract.
pytestmark = pytest.mark.usefixtures("own_errors")
MOST_LAUNCHES_A_LAYER = 12
OWN = {
  "row_matmul", "append_heads", "decode_attention", "join_attention", "lynx_route", "expert_hidden", "expert_down",
}  # fmt: skip

EXPERTS = {"expert_hidden", "expert_down"}
# One model is compiled in every run of the tests.
MODELS = [pytest.param(name, marks=() if name == "OLMoE-1B-7B" else pytest.mark.slow) for name in COMPILED]


def compiled(name, policy, target, layers=None):
  config = RELEASED[name] | ({} if layers is None else {"num_hidden_layers": layers})
  fn, args = decode_program(config, policy)
  report = gates.compile_for(fn, args, target, donate_argnums=(STATE,))
  smallest_cache = min(leaf.size * 2 for leaf in jax.tree.leaves(args[STATE].cache))
  gates.captured(report)
  gates.no_spills(kernel for kernel in report.kernels.values() if kernel.name.split("__")[0] in OWN)
  gates.no_copy_of(report, smallest_cache)
  return report


def short_loop(name: str, policy: RoutingPolicy | None, target: str, layers: int) -> list[str]:
  """What a loop of so many layers launches, which is as many kernels as recorded."""
  report = compiled(name, policy, target, layers)
  same_as_recorded("decode loop", f"{name}, {target}, layers: {layers}, policy: {'Lynx' if policy else 'none'}", report)
  return gates.kernel_launches(report)


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_few_launches_and_lynx_adds_none(name: str):
  launches = {
    (policy, layers): short_loop(name, policy, "h100", layers)
    for policy, layers in ((None, 1), (None, 2), (Lynx(3, 2), 2))
  }
  # A layer and what a policy's statistics, sampling and the loop itself add apart.
  assert len(launches[None, 2]) - len(launches[None, 1]) <= MOST_LAUNCHES_A_LAYER
  assert len(launches[Lynx(3, 2), 2]) == len(launches[None, 2])
  # Where rows and groups fill a GPU, attention is not split and nothing is joined.
  assert {launch.split("__")[0] for launch in launches[None, 2]} >= OWN - {"join_attention"}


@pytest.mark.parametrize("name", MODELS)
def test_an_a100_runs_the_same_kernels(name: str):
  assert {launch.split("__")[0] for launch in short_loop(name, Lynx(3, 2), "a100", 2)} >= OWN - {"join_attention"}


# One model a family that is not compiled above or in test_latent_loop_gates.py; the layers that differ in it.
@pytest.mark.parametrize(
  ("name", "changes"),
  [
    ("DeepSeek-V3", {"num_hidden_layers": 2, "first_k_dense_replace": 1}),
    pytest.param("Qwen2-57B-A14B", {"num_hidden_layers": 1}, marks=pytest.mark.slow),
    ("gpt-oss-20b", {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}),
    pytest.param("granite-3.1-3b-a800m-base", {"num_hidden_layers": 1}, marks=pytest.mark.slow),
    pytest.param("Phi-3.5-MoE-instruct", {"num_hidden_layers": 1}, marks=pytest.mark.slow),
    pytest.param("dbrx-instruct", {"n_layers": 1}, marks=pytest.mark.slow),
    pytest.param("Llama-4-Scout-17B-16E", {"num_hidden_layers": 4}, marks=pytest.mark.slow),
  ],
)
def test_every_family_is_one_graph_that_copies_nothing(name: str, changes: dict[str, Any]):
  fn, args = decode_program(RELEASED[name] | changes, Lynx(3, 2))
  report = gates.compile_for(fn, args, "h100", donate_argnums=(STATE,))
  gates.captured(report)
  gates.no_copy_of(report, min(leaf.size * 2 for leaf in jax.tree.leaves(args[STATE].cache)))
  # The kernels run, and not the plain JAX that stands in for them.
  assert any(launch.startswith("lynx_route") for launch in gates.kernel_launches(report))


@pytest.mark.slow
def test_experts_as_gpt_oss_holds_them_add_no_launch_and_no_copy():
  config = RELEASED["gpt-oss-20b"] | {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
  launches = []
  for held in (None, {Role.EXPERT: HELD["MXFP4"]}):
    fn, args = decode_program(config, Lynx(3, 2), held=held)
    report = gates.compile_for(fn, args, "h100", donate_argnums=(STATE,))
    gates.captured(report)
    gates.no_copy_of(report, min(leaf.size * 2 for leaf in jax.tree.leaves(args[STATE].cache)))
    launches.append([launch.split("__")[0] for launch in gates.kernel_launches(report)])
    experts = [kernel for name, kernel in report.kernels.items() if name.split("__")[0] in EXPERTS]
    gates.no_spills(experts)
    if held:
      gates.packed_in_registers(experts)
  assert sum(launch in EXPERTS for launch in launches[0]) == 4
  assert launches[0] == launches[1]


@pytest.mark.slow
def test_all_48_layers_of_qwen3_are_one_graph_that_copies_nothing():
  report = compiled("Qwen3-30B-A3B", Lynx(3, 2), "h100")
  # What sampling needs for 16 rows of 151,936 scores; the weights are 61 GB, the cache 1.6 GB.
  assert report.temporary_bytes < 64e6
  layers = sum(launch.startswith("lynx_route") for launch in gates.kernel_launches(report))
  assert layers == 48
