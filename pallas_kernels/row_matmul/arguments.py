"""What the implementations of `row_matmul` are given."""

import dataclasses
from typing import NamedTuple

import jax

from pallas_kernels.weights.base import Weight


class RowArrays(NamedTuple):
  """The arrays of `row_matmul`.

  Attributes:
    x: rows [T, I].
    weights: stored [O, I] each.
    norm_scale: scale [I] of the norm of `x`, or None.
    biases: for each weight [O], or None.
    residual: added to the results [T, O], or None.
    used: rows that are asked for (a number), the first ones; None is all.
  """

  x: jax.Array
  weights: tuple[Weight, ...]
  norm_scale: jax.Array | None
  biases: tuple[jax.Array | None, ...]
  residual: jax.Array | None
  used: jax.Array | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
  """The static options of `row_matmul`.

  Attributes:
    norm_eps: added to the mean square.
    dtype: name of the results' dtype.
  """

  norm_eps: float
  dtype: str
