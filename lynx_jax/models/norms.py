"""Root-mean-square normalisation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RMSNorm(nnx.Module):
  """A learned scale over the last axis, shape [D]."""

  def __init__(self, width: int, eps: float, *, dtype: jnp.dtype):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), dtype))

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalises in float32 and returns `x`'s dtype (arXiv 1910.07467)."""
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
    scale = self.scale[...].astype(jnp.float32)
    return (normal * jnp.expand_dims(scale, tuple(range(x.ndim - 1)))).astype(x.dtype)
