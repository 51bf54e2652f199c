"""Weights as 8-bit whole numbers, with one scale an output: half the bytes of bfloat16.

weight[o, i] is values[o, i] * scales[o]. A whole number of at most 127 is exact in bfloat16, so a product takes
the values as they are and is scaled afterwards: only the weights are rounded, and none is widened in memory.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int8, Num

from pallas_kernels.cpu.huge_pages import aligned_empty
from pallas_kernels.weights.bfloat16 import from_bits, take_rows

LARGEST = 127
# Elements taken at a time, so that their float32 copies stay in the processor's cache.
_BLOCK = 1 << 18


class Int8Weight(NamedTuple):
  """A weight stored [..., out, in]; a pytree, of NumPy or of JAX arrays.

  Attributes:
    values: in [-127, 127].
    scales: what the values of an output are multiplied by; positive.
  """

  values: Int8[Array, "*stack O I"]
  scales: Float32[Array, "*stack O"]

  @property
  def shape(self) -> tuple[int, ...]:
    """That of the weight."""
    return self.values.shape

  @property
  def dtype(self) -> np.dtype:
    """int8."""
    return self.values.dtype


Weight: TypeAlias = jax.Array | Int8Weight


def quantize(weight: Num[np.ndarray, "*stack O I"]) -> Int8Weight:
  """The nearest whole multiples of each output's largest magnitude over 127 (symmetric), as NumPy arrays.

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
  return Int8Weight(values.reshape(weight.shape), scales.reshape(*stack, outs))  # pyright: ignore[reportArgumentType]


def dequantize(weight: Int8Weight) -> Float32[Array, "*stack O I"]:
  """The weight in float32: its whole size, for checks."""
  return jnp.asarray(weight.values).astype(jnp.float32) * jnp.asarray(weight.scales)[..., None]


def factor(weight: Weight, dtype: Any) -> Num[Array, "*stack O I"]:
  """What rows of `dtype` are multiplied by, before `scaled`: an array (bfloat16 from its bits), or int8 values."""
  return weight.values.astype(dtype) if isinstance(weight, Int8Weight) else from_bits(weight)


def scaled(y: Float32[Array, "*rows"], weight: Weight) -> Float32[Array, "*rows"]:
  """Products [..., *stack, out] with `factor(weight)`, times the scales of an int8 weight."""
  if not isinstance(weight, Int8Weight):
    return y
  return y * jnp.expand_dims(weight.scales, tuple(range(y.ndim - weight.scales.ndim)))


def rows_at(weight: Weight, ids: jax.Array, dtype: Any) -> Float[Array, "*ids I"]:
  """Outputs `ids` of a weight [out, in], such as the tokens' rows of an embedding, in `dtype`."""
  if not isinstance(weight, Int8Weight):
    return take_rows(weight, ids)
  return (weight.values[ids].astype(jnp.float32) * weight.scales[ids][..., None]).astype(dtype)
