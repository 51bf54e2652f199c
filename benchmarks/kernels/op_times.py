"""Time of each op on this machine, beside the time that reading its bytes would take."""

import dataclasses
import functools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels.kernel_time import TimedCall, call_seconds
from benchmarks.kernels.op_cases import Case, cases
from pallas_kernels.gates.shapes import ModelShape


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpTime:
  """One op at one size.

  Attributes:
    op: its name.
    model: whose sizes.
    case: rows and what else matters.
    us: median time of a call, in microseconds: on a GPU that of the kernels it launches, by the profiler, with caches
      flushed before each call; elsewhere that of the clock.
    roofline_us: bytes that must be read or written over the measured bandwidth.
    error: largest difference from the reference, over the reference's largest magnitude.
  """

  op: str
  model: str
  case: str
  us: float
  roofline_us: float
  error: float


def op_times(
  shapes: ModelShape | Sequence[ModelShape], bandwidth: float, *, rows: int = 16, capacity: int = 1024
) -> list[OpTime]:
  """Every op of a decode step of `rows` rows, and a prefill's grouped product, with random inputs.

  All ops of all models are compiled side by side before the first is timed.

  Args:
    shapes: a model's sizes, or several models'.
    bandwidth: bytes a second that rooflines count on.
    rows: of a decode step.
    capacity: positions that attention sees.
  """
  shapes = [shapes] if isinstance(shapes, ModelShape) else shapes
  with ThreadPoolExecutor(os.cpu_count()) as threads:
    drawn = list(threads.map(lambda shape: list(cases(shape, rows, capacity)), shapes))
    every = [(shape, case) for shape, of_shape in zip(shapes, drawn, strict=True) for case in of_shape]
    compared = list(threads.map(lambda pair: _compared(pair[1]), every))
  return [
    OpTime(
      op=case.op,
      model=shape.name,
      case=case.what,
      us=1e6 * seconds,
      roofline_us=1e6 * case.moved / bandwidth,
      error=error,
    )
    for (shape, case), (_, error), seconds in zip(
      every, compared, call_seconds([call for call, _ in compared]), strict=True
    )
  ]


def _compared(case: Case) -> tuple[TimedCall, float]:
  """The op's best implementation, compiled, and how far its results are from the reference's."""
  call = TimedCall(functools.partial(case.fn, implementation=None), case.args)
  reference = jax.jit(functools.partial(case.fn, implementation="reference"))
  return call, float(difference(call(), reference(*case.args)))


@jax.jit
def difference(got: Any, want: Any) -> jax.Array:
  """Largest difference of any result, over the largest magnitude of its kind; not a number if any is not."""
  worst = jnp.zeros((), jnp.float32)
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    one, other = one.astype(jnp.float32), other.astype(jnp.float32)
    worst = jnp.maximum(worst, jnp.max(jnp.abs(one - other)) / jnp.maximum(jnp.max(jnp.abs(other)), 1e-30))
  return worst
