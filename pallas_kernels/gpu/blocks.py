"""How GPU kernels cut a product: a table of measured choices for each device, and a rule of thumb where it has none."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

import jax
from jax.experimental import pallas as pl

from pallas_kernels.dispatch import traced_anew


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
  """One kernel's cut.

  Attributes:
    columns: of the result, a program.
    inner: steps along the axis that is summed.
    warps: of a program.
    stages: loads in flight.
  """

  columns: int
  inner: int
  warps: int
  stages: int


Question = tuple[str, tuple[int, ...]]
"""A kernel's name and the sizes that its cut depends on."""


def _blocks(columns: int, inner: int, warps: int, stages: int) -> Blocks:
  return Blocks(columns=columns, inner=inner, warps=warps, stages=stages)


TUNED: dict[str, dict[Question, Blocks]] = {
  # 2026-11-26, at 16 rows, by profiles of single calls with caches flushed before each (docs/results).
  "NVIDIA H200": {
    ("row_matmul", (16, 6144, 2048)): _blocks(16, 256, 1, 4),
    ("row_matmul", (16, 5120, 2048)): _blocks(64, 128, 2, 6),
    ("row_matmul", (16, 6144, 4096)): _blocks(16, 256, 1, 4),
    ("row_matmul", (16, 2048, 2048)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 2048, 4096)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 4096, 4096)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 64, 2048)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 128, 2048)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 50304, 2048)): _blocks(128, 128, 2, 3),
    ("row_matmul", (16, 32000, 4096)): _blocks(128, 128, 2, 3),
    ("expert_hidden", (16, 1024, 2048, 8, 2)): _blocks(64, 128, 4, 4),
    ("expert_hidden", (16, 768, 2048, 8, 2)): _blocks(64, 128, 4, 4),
    ("expert_down", (16, 2048, 768, 8, 1)): _blocks(64, 128, 4, 3),
  },
  # 2026-11-26, by `python -m benchmarks.kernels.tune --seconds 50`, which got through two fifths of the cuts.
  "NVIDIA H100 80GB HBM3": {
    ("row_matmul", (16, 6144, 2048)): _blocks(64, 128, 2, 5),
    ("row_matmul", (16, 5120, 2048)): _blocks(16, 256, 1, 3),
    ("row_matmul", (16, 6144, 4096)): _blocks(16, 256, 1, 3),
    ("row_matmul", (16, 2048, 4096)): _blocks(16, 512, 2, 4),
    ("row_matmul", (16, 4096, 4096)): _blocks(16, 256, 1, 4),
    ("row_matmul", (16, 64, 2048)): _blocks(16, 512, 2, 5),
    ("row_matmul", (16, 128, 2048)): _blocks(16, 512, 2, 4),
    ("expert_hidden", (16, 1024, 2048, 8, 2)): _blocks(128, 128, 4, 3),
    ("expert_hidden", (16, 14336, 4096, 2, 2)): _blocks(32, 256, 4, 4),
  },
}
"""By JAX's `device_kind`: cuts that beat the rule by 3 % or more; `benchmarks.kernels.tune` looks for them."""

_tried: contextvars.ContextVar[Mapping[Question, Blocks]] = contextvars.ContextVar(
  "tried", default=MappingProxyType({})
)
_asked: contextvars.ContextVar[tuple[dict[Question, Blocks], ...]] = contextvars.ContextVar("asked", default=())


def choose(kernel: str, sizes: tuple[int, ...], rule: Callable[[], Blocks]) -> Blocks:
  """The cut on trial, or the one measured on this machine's GPU, or the rule's."""
  found = _tried.get().get((kernel, sizes)) or TUNED.get(_device_kind(), {}).get((kernel, sizes)) or rule()
  for answers in _asked.get():
    answers[kernel, sizes] = found
  return found


def _device_kind() -> str:
  return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else ""


@contextlib.contextmanager
def trying(question: Question, blocks: Blocks) -> Iterator[None]:
  """Kernels that this thread traces inside are cut this way."""
  token = _tried.set({**_tried.get(), question: blocks})
  try:
    with traced_anew():
      yield
  finally:
    _tried.reset(token)


@contextlib.contextmanager
def questions() -> Iterator[dict[Question, Blocks]]:
  """What kernels traced inside ask for, and what they are given."""
  answers: dict[Question, Blocks] = {}
  token = _asked.set((*_asked.get(), answers))
  try:
    with traced_anew():
      yield answers
  finally:
    _asked.reset(token)


def dividing_step(inner: int, most: int) -> int:
  """A power of two of at most `most`, dividing `inner` where it can: masks cost the pipelining of loads."""
  dividing = inner & -inner
  return max(16, min(most, dividing if dividing >= 32 else pl.next_power_of_2(inner)))
