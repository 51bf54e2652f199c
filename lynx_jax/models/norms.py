"""Norms of the residual stream and of heads."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from lynx_jax.models.declare import Declare
from lynx_jax.placement import Role
from pallas_kernels import rms_norm


class RMSNorm(nnx.Module):
  """A root mean square norm with a learned scale over the last axis, whose letter is `axis`."""

  def __init__(self, width: int, eps: float, declare: Declare, *, axis: str = "D"):
    self.eps = eps
    self.scale = declare.param((width,), axis, Role.NORM)

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalises in float32 and returns `x`'s dtype (arXiv 1910.07467)."""
    return rms_norm(x, self.scale[...], self.eps)


class LayerNorm(nnx.Module):
  """A learned scale over the last axis [D], and a bias [D] if `bias` is true."""

  def __init__(self, width: int, eps: float, declare: Declare, *, bias: bool):
    self.eps = eps
    self.scale = declare.param((width,), "D", Role.NORM)
    self.bias = declare.bias((width,), "D", present=bias)

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


def make_norm(kind: Literal["rms", "layer"], width: int, eps: float, declare: Declare, *, bias: bool) -> Norm:
  """A fresh norm of that kind."""
  return RMSNorm(width, eps, declare) if kind == "rms" else LayerNorm(width, eps, declare, bias=bias)
