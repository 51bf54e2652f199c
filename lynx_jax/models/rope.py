"""Rotary position embedding, in the rotate-half form of Hugging Face checkpoints."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int


def rotary_angles(positions: Int[Array, "B L"], head_dim: int, theta: float) -> Float32[Array, "B L half"]:
  """Angles in radians, position * theta ** (-2 i / head_dim) (arXiv 2104.09864, section 3.2.2)."""
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequencies = 1.0 / theta**exponents
  return positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]


def rotate(x_BLNH: Float[Array, "B L N H"], angles: Float32[Array, "B L half"]) -> Float[Array, "B L N H"]:
  """Turns each pair (x[i], x[i + H/2]) by its angle, in float32; returns `x`'s dtype."""
  cos, sin = jnp.cos(angles)[:, :, None, :], jnp.sin(angles)[:, :, None, :]
  first, second = jnp.split(x_BLNH.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
  return turned.astype(x_BLNH.dtype)
