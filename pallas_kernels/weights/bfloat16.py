"""bfloat16 weights held as their bits, in uint16.

XLA's CPU compiler widens the whole of a bfloat16 array that a loop indexes (seen on jax 0.10.2: 0.8 GB of temporaries
and five times the time for two layers of experts). A uint16 array is sliced in place; the slice is then read as
bfloat16, which the CPU's matrix product takes natively.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num
from numpy.typing import DTypeLike

from pallas_kernels.weights.base import HeldWeight


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class BFloat16Bits(HeldWeight):
  """A bfloat16 weight as its bits.

  Attributes:
    bits: uint16, of the weight's shape.
  """

  bits: Any

  @property
  def kind(self) -> str:
    """`bfloat16 bits`."""
    return "bfloat16 bits"

  @property
  def exact(self) -> bool:
    """Always."""
    return True

  @property
  def shape(self) -> tuple[int, ...]:
    """The weight's shape."""
    return self.bits.shape

  @property
  def dtype(self) -> np.dtype:
    """bfloat16."""
    return np.dtype(jnp.bfloat16)

  def dequantize(self, dtype: DTypeLike | None = None) -> Num[Array, "*shape"]:
    """The weight's numbers, in bfloat16 unless `dtype` says otherwise."""
    return from_bits(jnp.asarray(self.bits)).astype(self.dtype if dtype is None else np.dtype(dtype))

  def on_host(self) -> Num[np.ndarray, "*shape"]:
    """The weight's numbers; no copy where the bits lie in host memory."""
    return np.asarray(self.bits).view(self.dtype)

  def factor(self, dtype: DTypeLike) -> Num[Array, "*shape"]:
    """The bfloat16 numbers, whatever the rows' dtype."""
    return from_bits(self.bits)

  def scaled(self, y: Float32[Array, "*rows"]) -> Float32[Array, "*rows"]:
    """`y` itself: bits have no scale."""
    return y

  def rows_at(self, ids: Int[Array, "*ids"]) -> Float[Array, "*ids I"]:
    """The rows' numbers."""
    return from_bits(self.bits[ids])


def bits_of(weight: Num[np.ndarray, "*shape"]) -> BFloat16Bits:
  """The same bfloat16 weight as its bits, without a copy."""
  return BFloat16Bits(weight.view(np.uint16))


def from_bits(weights: Num[Array, "*shape"]) -> Num[Array, "*shape"]:
  """Reads uint16 as bfloat16; any other dtype passes through."""
  return jax.lax.bitcast_convert_type(weights, jnp.bfloat16) if weights.dtype == jnp.uint16 else weights
