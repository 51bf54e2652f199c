"""How a parameter is held, answered from what its declaration says of it: its role, its axes and its shape.

A module of `lynx_jax.models` declares each of its parameters once. Loading, random weights and estimates ask here for
the dtype, for the kind of weight (floating point or int8), and for the form in which the backend reads it fastest. No
other file tells parameters apart by their names.
"""

import dataclasses
import enum

import numpy as np
from numpy.typing import DTypeLike


class Role(enum.Enum):
  """What a parameter is for."""

  EMBEDDING = "rows that are looked up by token"
  HEAD = "the output head, or an embedding that is the head as well"
  PROJECTION = "a matrix of attention, of a dense network or of a shared one"
  EXPERT = "a matrix of every expert, stacked"
  EXPANSION = "what expands a latent to the keys or values of every head"
  ROUTER = "what routing decides by: router logits, and the gate of a shared network"
  SELECTION_BIAS = "a bias of the choice of experts alone"
  BIAS = "a bias, or an attention sink"
  NORM = "the scale of a norm"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
  """One parameter's declaration.

  Attributes:
    shape: of the parameter.
    axes: one word for each axis, such as "E F2 D": experts, gate rows before up rows, model width.
    role: what the parameter is for.
  """

  shape: tuple[int, ...]
  axes: str
  role: Role

  def __post_init__(self) -> None:
    if len(self.axes.split()) != len(self.shape):
      raise ValueError(f"Declared.axes is {self.axes!r}: expected one word for each axis of {self.shape}")


def dtype_of(role: Role, dtype: DTypeLike) -> np.dtype:
  """The dtype of a parameter of that role in a model of `dtype`."""
  # A selection bias can be many nats large, and its last bits then decide between experts.
  return np.dtype(np.float32) if role is Role.SELECTION_BIAS else np.dtype(dtype)
