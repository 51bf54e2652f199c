"""Engine steps of released models, compiled for real GPUs with abstract weights: one graph, caches in place."""

import jax
import jax.numpy as jnp
import pytest

from lynx_jax.engine.paged.executor import empty_state
from lynx_jax.engine.paged.program_set import STATE, ProgramSet
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.paged.steps import StepSettings
from lynx_jax.models.decoder import abstract_decoder
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import RELEASED
from lynx_jax.routing import Lynx
from pallas_kernels import gates

# The run-time shape checker takes arrays only, and the weights here are abstract.
pytestmark = pytest.mark.usefixtures("own_errors")
SLOTS, TABLE, BLOCKS = 16, 128, 2048
DECODE = StepShape(rows=16, chunks=False, slots=SLOTS, table=TABLE)
MIXED = StepShape(rows=128, chunks=True, slots=SLOTS, table=TABLE)
DECODING = {"row_matmul", "lynx_route", "expert_hidden", "expert_down"}
READING = {"chunk_attention", "expert_hidden", "expert_down"}


@pytest.mark.parametrize(
  ("name", "shape", "target", "kernels"),
  [
    ("Qwen3-30B-A3B", DECODE, "a100", DECODING | {"append_heads", "decode_attention"}),
    pytest.param(
      "Qwen3-30B-A3B", MIXED, "h100", READING | {"append_heads", "decode_attention"}, marks=pytest.mark.slow
    ),
    pytest.param("DeepSeek-V2-Lite", DECODE, "h100", DECODING | {"latent_attention"}, marks=pytest.mark.slow),
  ],
)
def test_a_step_is_one_graph_that_copies_no_cache(name: str, shape: StepShape, target: str, kernels: set[str]):
  spec = spec_from_config(RELEASED[name] | {"num_hidden_layers": 2})
  state = jax.eval_shape(lambda: empty_state(spec, jnp.bfloat16, blocks=BLOCKS, slots=SLOTS))
  programs = ProgramSet(abstract_decoder(spec, jnp.bfloat16), state, StepSettings(policy=Lynx(3, 2), limited=True))
  step, shapes = programs.step_function(shape)
  report = gates.compile_for(step, shapes, target, donate_argnums=(STATE,))
  gates.captured(report)
  gates.no_copy_of(report, min(leaf.size * 2 for leaf in jax.tree.leaves(state.cache)))
  launched = {launch.split("__")[0] for launch in gates.kernel_launches(report)}
  assert launched >= kernels
  gates.no_spills(kernel for kernel in report.kernels.values() if kernel.name.split("__")[0] in kernels)
