"""Root-mean-square normalisation."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from pallas_kernels.rms_norm import rms_norm


class RMSNorm(nnx.Module):
  """A learned scale over the last axis, shape [D]."""

  def __init__(self, width: int, eps: float, *, dtype: jnp.dtype):
    self.eps = eps
    self.scale = nnx.Param(jnp.ones((width,), dtype))

  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """Normalises in float32 and returns `x`'s dtype (arXiv 1910.07467)."""
    return rms_norm(x, self.scale[...], self.eps)
