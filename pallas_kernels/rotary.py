"""Rotary position embedding, in the rotate-half form of Hugging Face checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32


def rotate(x: Float[Array, "*rows N H"], angles: Float32[Array, "*rows half"]) -> Float[Array, "*rows N H"]:
  """Turns each pair (x[i], x[i + H/2]) by its angle, in float32 (arXiv 2104.09864); returns `x`'s dtype."""
  cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
