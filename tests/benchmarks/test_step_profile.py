"""A decode step's kernels by name, from fabricated launches and from the CPU's own profile."""

import pytest

from benchmarks.kernels import step_profile
from benchmarks.kernels.gpu_trace import Kernel
from benchmarks.kernels.step_profile import by_kernel
from lynx_jax.routing import parse_policy
from tests.benchmarks.cpu_trace import cpu_traced
from tests.small_models import small_params


def test_launches_are_added_by_name_and_the_copied_state_is_left_out():
  kernels = [
    Kernel("MemcpyD2D", 0, 9000, "jit_copy"),
    Kernel("row_matmul", 1, 1000, "jit__feed"),
    Kernel("expert_hidden", 2, 6000),
    Kernel("row_matmul", 3, 3000, "jit__feed"),
    Kernel("MemcpyD2D", 4, 500, "jit__feed"),
  ]
  uses = by_kernel(kernels, 2)
  assert [(use.name, use.us, use.launches) for use in uses] == [
    ("expert_hidden", 3.0, 0.5),
    ("row_matmul", 2.0, 1.0),
    ("MemcpyD2D", 0.25, 0.5),
  ]


@pytest.mark.slow
def test_a_decode_is_profiled(monkeypatch):
  monkeypatch.setattr(step_profile, "traced", cpu_traced)
  profile = step_profile.step_profile(small_params(), 2, parse_policy("topk"), length=8, steps=4)
  assert (profile.policy, profile.batch) == ("topk", 2)
  assert profile.step_ms > 0
  assert profile.busy_us == pytest.approx(sum(use.us for use in profile.kernels))
  assert profile.kernels[0].us == max(use.us for use in profile.kernels) > 0
