"""By how much rotary positions turn queries and keys."""

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int


def rotary_angles(positions: Int[Array, "B L"], head_dim: int, theta: float) -> Float32[Array, "B L half"]:
  """Angles in radians, position * theta ** (-2 i / head_dim) (arXiv 2104.09864, section 3.2.2)."""
  exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
  frequencies = 1.0 / theta**exponents
  return positions.astype(jnp.float32)[:, :, None] * frequencies[None, None, :]
