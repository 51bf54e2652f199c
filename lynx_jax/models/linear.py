"""Products with a weight stored [out, in], as checkpoints have it."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], dtype: jnp.dtype, scale: float = 0.02) -> nnx.Param:
  """A parameter drawn from a normal distribution of standard deviation `scale`."""
  return nnx.Param(scale * jax.random.normal(rngs.params(), shape, dtype))


def project(x: Float[Array, "... I"], weight_OI: Float[Array, "O I"]) -> Float32[Array, "... O"]:
  """`x @ weight.T`, accumulated and returned in float32."""
  return jnp.einsum("...i,oi->...o", x, weight_OI, preferred_element_type=jnp.float32)
