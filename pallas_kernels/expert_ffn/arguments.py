"""What the implementations of `expert_ffn` are given."""

import dataclasses
from typing import NamedTuple

import jax

from pallas_kernels.activations import SWIGLU, Activation
from pallas_kernels.expert_ffn.tiles import Tiles
from pallas_kernels.weights.base import Weight


class ExpertArrays(NamedTuple):
  """The arrays of `expert_ffn`.

  Attributes:
    x: rows [T, D].
    ids: each row's experts, int32 [T, K].
    weights: the experts' weights, float32 [T, K].
    gate_up: first products' weights [E, 2F, D], an expert's gate rows before its up rows.
    down: second products' weights [E, D, F].
    valid: rows that count, bool [T].
    tiles: the rows of each expert, or None where they are not grouped.
    gate_up_bias: added to the first product [E, 2F], or None.
    down_bias: added to the second product [E, D], or None.
  """

  x: jax.Array
  ids: jax.Array
  weights: jax.Array
  gate_up: Weight
  down: Weight
  valid: jax.Array
  tiles: Tiles | None = None
  gate_up_bias: jax.Array | None = None
  down_bias: jax.Array | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertOptions:
  """The static option of `expert_ffn`.

  Attributes:
    activation: between the two products, of float32 gate and up values.
  """

  activation: Activation = SWIGLU
