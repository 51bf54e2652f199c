"""Norms of the residual stream and of heads."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pallas_kernels import rms_norm


class RMSNorm(nnx.Module):
  """A learned scale over the last axis, shape [D]."""

  def __init__(self, width: int, eps: float, *, dtype: jnp.dtype):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), dtype))

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalises in float32 and returns `x`'s dtype (arXiv 1910.07467)."""
    return rms_norm(x, self.scale[...], self.eps)


class LayerNorm(nnx.Module):
  """A learned scale, and a bias where asked for, over the last axis, shapes [D]."""

  def __init__(self, width: int, eps: float, *, bias: bool, dtype: jnp.dtype):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), dtype))
    self.bias = nnx.Param(jnp.zeros((width,), dtype)) if bias else None

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalises in float32 and returns `x`'s dtype (arXiv 1607.06450)."""
    wide = x.astype(jnp.float32)
    centred = wide - wide.mean(axis=-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(axis=-1, keepdims=True) + self.eps)
    ahead = tuple(range(x.ndim - 1))
    y = normal * jnp.expand_dims(self.scale[...].astype(jnp.float32), ahead)
    if self.bias is not None:
      y = y + jnp.expand_dims(self.bias[...].astype(jnp.float32), ahead)
    return y.astype(x.dtype)


Norm: TypeAlias = RMSNorm | LayerNorm


def make_norm(kind: Literal["rms", "layer"], width: int, eps: float, *, bias: bool, dtype: jnp.dtype) -> Norm:
  """A fresh norm of that kind."""
  return RMSNorm(width, eps, dtype=dtype) if kind == "rms" else LayerNorm(width, eps, bias=bias, dtype=dtype)
