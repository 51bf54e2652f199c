"""A layer under each kind of policy is as many kernels as recorded: one of OLMoE's, compiled for an H100."""

import pytest

import lynx_jax
from benchmarks.kernels.decode_program import STATE, decode_program
from lynx_jax.models.released import RELEASED
from pallas_kernels import gates
from tests.goldens.kernels import same_as_recorded

MODEL = "OLMoE-1B-7B"


# Rules of the routing kernel that no decode loop of tests/engine runs, and one that is plain JAX.
@pytest.mark.slow
@pytest.mark.parametrize("policy", ["auto", "oea:k0=2", "xshare:budget=32,k0=1"])
@pytest.mark.usefixtures("own_errors")
def test_a_layer_is_as_many_kernels_as_recorded(policy: str):
  fn, args = decode_program(RELEASED[MODEL] | {"num_hidden_layers": 1}, lynx_jax.parse_policy(policy))
  report = gates.compile_for(fn, args, "h100", donate_argnums=(STATE,))
  same_as_recorded("decode loop of one layer", f"{MODEL}, h100, {policy}", report)
