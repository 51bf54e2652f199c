"""Weights as 8-bit whole numbers, with one scale an output: half the bytes of bfloat16.

weight[o, i] is values[o, i] * scales[o]. A whole number of at most 127 is exact in bfloat16, so a product takes
the values as they are and is scaled afterwards: only the weights are rounded, and none is widened in memory.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num
from numpy.typing import DTypeLike

from pallas_kernels.cpu.huge_pages import aligned_empty
from pallas_kernels.weights.base import HeldWeight

LARGEST = 127
# Elements taken at a time, so that their float32 copies stay in the processor's cache.
_BLOCK = 1 << 18


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Int8Weight(HeldWeight):
  """A weight [..., out, in] in 8 bits.

  Attributes:
    values: int8, of the weight's shape, in [-127, 127].
    scales: float32 [..., out], positive; each multiplies the values of its output.
    numbers: name of the dtype that the weight stands for, that of its model's activations (static).
  """

  kind: ClassVar[str] = "int8"
  exact: ClassVar[bool] = False

  values: Any
  scales: Any
  numbers: str = dataclasses.field(default="float32", metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    """The weight's shape."""
    return self.values.shape

  @property
  def dtype(self) -> np.dtype:
    """The dtype that the weight stands for."""
    return np.dtype(jnp.dtype(self.numbers))

  def dequantize(self, dtype: DTypeLike | None = None) -> Float[Array, "*stack O I"]:
    """The whole weight: values times scales, in float32 before it is rounded to `dtype`."""
    wide = jnp.asarray(self.values).astype(jnp.float32) * jnp.asarray(self.scales)[..., None]
    return wide.astype(self.dtype if dtype is None else np.dtype(dtype))

  def factor(self, dtype: DTypeLike) -> Num[Array, "*stack O I"]:
    """The values in `dtype`, which holds them exactly."""
    return self.values.astype(np.dtype(dtype))

  def scaled(self, y: Float32[Array, "*rows"]) -> Float32[Array, "*rows"]:
    """Products [..., *stack, out] with the values, times the scales."""
    return y * jnp.expand_dims(self.scales, tuple(range(y.ndim - self.scales.ndim)))

  def rows_at(self, ids: Int[Array, "*ids"]) -> Float[Array, "*ids I"]:
    """The rows' numbers; only those rows are widened."""
    return (self.values[ids].astype(jnp.float32) * self.scales[ids][..., None]).astype(self.dtype)


def quantize(weight: Num[np.ndarray, "*stack O I"]) -> Int8Weight:
  """Rounds to whole multiples of each output's largest magnitude over 127 (symmetric); gives NumPy arrays.

  An output of zeros has scale 1. Takes float32, bfloat16 and float16; makes no float32 copy of the whole.

  Raises:
    ValueError: `weight` holds NaN or infinity.
  """
  *stack, outs, inner = weight.shape
  rows = weight.reshape(-1, inner)
  values, scales = aligned_empty(rows.shape, np.int8), aligned_empty((len(rows),), np.float32)
  step = max(1, _BLOCK // max(1, inner))
  for start in range(0, len(rows), step):
    block = rows[start : start + step].astype(np.float32)
    largest = np.abs(block).max(axis=1, initial=0.0)
    if not np.isfinite(largest).all():
      raise ValueError("a weight that is NaN or infinite has no 8-bit form: load it in floating point")
    # Subnormal scales would lose the bits that a row needs.
    scale = np.where(largest > 0, np.maximum(largest / np.float32(LARGEST), np.finfo(np.float32).tiny), np.float32(1))
    values[start : start + step] = np.rint(block / scale[:, None])
    scales[start : start + step] = scale
  return Int8Weight(values.reshape(weight.shape), scales.reshape(*stack, outs), weight.dtype.name)
