"""Weights of few bits: small numbers and scales, in one of many forms.

weight[o, i] is (number[o, i] - zero) * scale * gain, with one scale for an output or for each group of its inputs. Most
weights have no zeros of their own, and no gains.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num
from numpy.typing import DTypeLike

from pallas_kernels.weights.base import HeldWeight
from pallas_kernels.weights.form import CODES, LANES, Form
from pallas_kernels.weights.layouts import by_output, meant, unpacked


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedWeight(HeldWeight):
  """A weight [..., out, in] in a `Form`.

  Attributes:
    values: the numbers: int8 for `int8`, the bits in uint8 for other codes, two in a byte where they have four.
    scales: float32 or a narrower float, of 8 bits too (float8_e4m3fn; float8_e8m0fnu, which holds powers of two alone);
      a negative one turns the range around.
    zeros: the number that means 0 in each group, of the shape of `scales`; None is the code's own.
    gains: one more float32 factor for each output, in the shape that scales have where an output has one: NVFP4 has it
      beside scales that are too narrow for it. None is 1.
    form: how the three are to be read (static).
    matrix: (out, in), which the arrays' shapes do not tell where they are filled up (static).
    numbers: name of the dtype that the weight stands for, that of its model's activations (static).
  """

  values: Any
  scales: Any
  zeros: Any = None
  gains: Any = None
  form: Form = dataclasses.field(metadata={"static": True})
  matrix: tuple[int, int] = dataclasses.field(metadata={"static": True})
  numbers: str = dataclasses.field(default="float32", metadata={"static": True})

  @property
  def kind(self) -> str:
    """The name of the code."""
    return self.form.code

  @property
  def exact(self) -> bool:
    """Never: the numbers that the weight was made of are lost."""
    return False

  @property
  def shape(self) -> tuple[int, ...]:
    """The weight's shape."""
    return (*self.values.shape[: -len(self.form.values_shape((1, 1)))], *self.matrix)

  @property
  def dtype(self) -> np.dtype:
    """The dtype that the weight stands for."""
    return np.dtype(jnp.dtype(self.numbers))

  def dequantize(self, dtype: DTypeLike | None = None) -> Float[Array, "*stack O I"]:
    """The whole weight: numbers times scales, in float32 before it is rounded to `dtype`."""
    form, (outs, inner) = self.form, self.matrix
    numbers = meant(unpacked(jnp.asarray(self.values), form, self.shape), form.code, jnp.float32)

    def spread(array: Any) -> jax.Array:
      """One of the array for each number, or one for all numbers of an output."""
      found = by_output(jnp.asarray(array), form, outs).astype(jnp.float32)
      return found if form.group is None else jnp.repeat(found, form.group, axis=-1)[..., :inner]

    if self.zeros is not None:
      numbers -= spread(self.zeros) - CODES[form.code].zero
    numbers = numbers * spread(self.scales)
    if self.gains is not None:
      numbers = numbers * by_output(jnp.asarray(self.gains), form, outs)
    return numbers.astype(self.dtype if dtype is None else np.dtype(dtype))

  def factor(self, dtype: DTypeLike) -> Num[Array, "*stack O I"]:
    """The small numbers, which `dtype` holds exactly, where outputs have one scale; otherwise the weight, rounded.

    Gains are left to `scaled` in both.
    """
    if not self._scaled_after:
      return dataclasses.replace(self, gains=None).dequantize(dtype)
    return meant(unpacked(self.values, self.form, self.shape), self.form.code, dtype)

  def scaled(self, y: Float32[Array, "*rows"]) -> Float32[Array, "*rows"]:
    """Products [..., *stack, out] with `factor`, times the scales and gains that it lacks."""
    for left in (self.scales if self._scaled_after else None, self.gains):
      if left is not None:
        each = by_output(left, self.form, self.matrix[0])[..., 0].astype(jnp.float32)
        y = y * jnp.expand_dims(each, tuple(range(y.ndim - each.ndim)))
    return y

  def rows_at(self, ids: Int[Array, "*ids"]) -> Float[Array, "*ids I"]:
    """The rows' numbers; only those rows are widened, or blocks of outputs that lie interleaved with them."""
    flat, inner = ids.reshape(-1), self.matrix[1]
    if self.form.layout == "rows":
      rows = self._part(lambda leaf: leaf[flat], flat.size).dequantize()
    else:
      blocks = self._part(lambda leaf: leaf[flat // LANES][:, None], LANES).dequantize()
      rows = jnp.take_along_axis(blocks, (flat % LANES)[:, None, None], axis=1)
    return rows.reshape(*ids.shape, inner)

  def _part(self, take: Any, outs: int) -> "QuantizedWeight":
    return dataclasses.replace(jax.tree.map(take, self), matrix=(outs, self.matrix[1]))

  @property
  def _scaled_after(self) -> bool:
    return self.form.group is None and self.zeros is None
