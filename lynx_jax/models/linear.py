"""Fresh weights."""

import jax
import jax.numpy as jnp
from flax import nnx


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: jnp.dtype, scale: float = 0.02) -> nnx.Param:
  """A parameter drawn from a normal distribution of standard deviation `scale`."""
  return nnx.Param(scale * jax.random.normal(rngs.params(), shape, dtype))
