"""Rotary position embedding, in the rotate-half form of Hugging Face checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def rotate(
  x: Float[Array, "*rows N H"], cos: Float32[Array, "*rows half"], sin: Float32[Array, "*rows half"]
) -> Float[Array, "*rows N H"]:
  """Each pair (x[i], x[i + H/2]) times (cos + i sin), in float32 (arXiv 2104.09864); returns `x`'s dtype."""
  cos, sin = cos[..., None, :], sin[..., None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
