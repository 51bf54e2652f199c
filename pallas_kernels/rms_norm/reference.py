"""`rms_norm` in plain JAX; the references of other ops use it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def rms_norm_reference(x: Float[Array, "*rows D"], scale: Float[Array, "D"], eps: float) -> Float[Array, "*rows D"]:
  """`rms_norm`: computed in float32, returned in `x`'s dtype."""
  wide = x.astype(jnp.float32)
  normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
  return (normal * jnp.expand_dims(scale.astype(jnp.float32), tuple(range(x.ndim - 1)))).astype(x.dtype)
