"""The protocol of weights: a plain array, or an array type of this folder that stands for one.

Ops take either. The functions below read both; code outside this folder calls them, and does not ask for the type. An
implementation that reads the stored form itself lists the kinds that it takes (`held_as`) and objects to the others.
"""

import abc
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num
from numpy.typing import DTypeLike

from pallas_kernels.weights.form import Form
from pallas_kernels.weights.rows import take_rows


class HeldWeight(abc.ABC):
  """A weight [..., out, in] that is held in another form than its numbers; a pytree, of NumPy or of JAX arrays."""

  @property
  @abc.abstractmethod
  def kind(self) -> str:
    """The form's name, by which implementations say what they take."""

  @property
  @abc.abstractmethod
  def exact(self) -> bool:
    """Whether `dequantize` gives back the numbers that were stored."""

  @property
  @abc.abstractmethod
  def shape(self) -> tuple[int, ...]:
    """The weight's shape."""

  @property
  @abc.abstractmethod
  def dtype(self) -> np.dtype:
    """The dtype of the weight's numbers, and of the activations of its model; not that of the stored arrays."""

  @abc.abstractmethod
  def dequantize(self, dtype: DTypeLike | None = None) -> Num[Array, "*shape"]:
    """The whole weight as a plain array, by default of its own `dtype`; for checks."""

  @abc.abstractmethod
  def factor(self, dtype: DTypeLike) -> Num[Array, "*shape"]:
    """The array by which rows of `dtype` are multiplied, before `scaled`."""

  @abc.abstractmethod
  def scaled(self, y: Float32[Array, "*rows"]) -> Float32[Array, "*rows"]:
    """Products [..., *stack, out] with `factor`, made products with the weight."""

  @abc.abstractmethod
  def rows_at(self, ids: Int[Array, "*ids"]) -> Float[Array, "*ids I"]:
    """The outputs `ids` of a weight [out, in], in the weight's `dtype`."""

  def on_host(self) -> Num[np.ndarray, "*shape"]:
    """The weight's exact numbers as a NumPy array; ValueError where the form has lost them."""
    raise ValueError(f"{self.kind} weights have lost the numbers that they were made of")

  @property
  def nbytes(self) -> int:
    """Bytes of the arrays that hold the weight."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

  def take(self, index: Int[Array, ""] | int) -> "HeldWeight":
    """The weight at `index` of the first axis, such as one expert of a stack."""
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), self)


Weight: TypeAlias = jax.Array | HeldWeight
"""What products take: an array, or an array type that stands for one."""


def held_as(weight: Any) -> str | None:
  """The kind of the form that holds the weight, or None for a plain array."""
  return weight.kind if isinstance(weight, HeldWeight) else None


def form_of(weight: Any) -> Form | None:
  """The form of a quantised weight, or None for any other."""
  return getattr(weight, "form", None) if isinstance(weight, HeldWeight) else None


def kinds_held(arrays: Any) -> set[str]:
  """The kinds of the held weights in a pytree."""
  leaves = jax.tree.leaves(arrays, is_leaf=lambda leaf: isinstance(leaf, HeldWeight))
  return {leaf.kind for leaf in leaves if isinstance(leaf, HeldWeight)}


def is_exact(weight: Any) -> bool:
  """Whether the weight's numbers are those that were stored."""
  return weight.exact if isinstance(weight, HeldWeight) else True


def dequantize(weight: Weight, dtype: DTypeLike = jnp.float32) -> Num[Array, "*shape"]:
  """The whole weight as a plain array of `dtype`; for checks."""
  return weight.dequantize(dtype) if isinstance(weight, HeldWeight) else jnp.asarray(weight).astype(np.dtype(dtype))


def factor(weight: Weight, dtype: DTypeLike) -> Num[Array, "*shape"]:
  """The array by which rows of `dtype` are multiplied, before `scaled`."""
  return weight.factor(dtype) if isinstance(weight, HeldWeight) else weight


def scaled(y: Float32[Array, "*rows"], weight: Weight) -> Float32[Array, "*rows"]:
  """Products [..., *stack, out] with `factor(weight)`, made products with the weight."""
  return weight.scaled(y) if isinstance(weight, HeldWeight) else y


def take(weight: Weight, index: Int[Array, ""] | int) -> Weight:
  """The weight at `index` of the first axis, such as one expert of a stack."""
  if isinstance(weight, HeldWeight):
    return weight.take(index)
  return jax.lax.dynamic_index_in_dim(weight, index, keepdims=False)


def rows_at(weight: Weight, ids: Int[Array, "*ids"]) -> Float[Array, "*ids I"]:
  """The outputs `ids` of a weight [out, in], such as the tokens' rows of an embedding, in the weight's dtype."""
  return weight.rows_at(ids) if isinstance(weight, HeldWeight) else take_rows(weight, ids)


def on_host(weight: Any) -> np.ndarray | jax.Array:
  """A plain array that holds the weight's exact numbers, without a copy where it lies in host memory.

  Raises ValueError, naming the kind, where the form has lost them.
  """
  return weight.on_host() if isinstance(weight, HeldWeight) else weight
