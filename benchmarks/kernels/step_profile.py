"""Which kernels a decode step spends its time in."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.kernels.gpu_trace import Kernel, traced
from lynx_jax.bench.fed_decode import FedDecode
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, format_policy

# The program that copies the state that a decode begins with, and takes over.
_COPY = "jit_copy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KernelUse:
  """All launches of one kernel in decode steps.

  Attributes:
    name: the kernel's.
    us: microseconds a step.
    launches: how many a step.
  """

  name: str
  us: float
  launches: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
  """A decode step under one policy.

  Attributes:
    policy: the policy, as text.
    batch: rows.
    step_ms: time of a step while it's profiled, in milliseconds.
    kernels: those of a step, the longest first.
  """

  policy: str
  batch: int
  step_ms: float
  kernels: list[KernelUse]

  @property
  def busy_us(self) -> float:
    """Microseconds a step that kernels take, one after the other."""
    return sum(kernel.us for kernel in self.kernels)


def step_profile(params: Params, batch: int, policy: RoutingPolicy, *, length: int, steps: int) -> StepProfile:
  """Profiles `steps` decode steps of random tokens, after prompts of `length` tokens."""
  run = FedDecode(params, batch, policy, length=length, steps=steps)
  run.warm_up()
  with traced() as kernels:
    seconds = run.seconds()
  return StepProfile(
    policy=format_policy(policy), batch=batch, step_ms=1e3 * seconds / steps, kernels=by_kernel(kernels, steps)
  )


def by_kernel(kernels: Sequence[Kernel], steps: int) -> list[KernelUse]:
  """The launches of `steps` steps by name, without the copy of the state before the first; the longest first."""
  durations: dict[str, list[float]] = defaultdict(list)
  for kernel in kernels:
    if not (kernel.module or "").startswith(_COPY):
      durations[kernel.name].append(kernel.duration)
  uses = [
    KernelUse(name=name, us=1e-3 * sum(each) / steps, launches=len(each) / steps) for name, each in durations.items()
  ]
  return sorted(uses, key=lambda use: -use.us)
