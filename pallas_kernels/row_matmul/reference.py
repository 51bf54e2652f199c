"""The same steps one by one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def row_matmul_reference(
  x_TI: Float[Array, "T I"],
  weight_OI: Float[Array, "O I"],
  norm_scale: Float[Array, "I"] | None,
  bias: Float[Array, "O"] | None,
  residual_TO: Float[Array, "T O"] | None,
  *,
  norm_eps: float,
  dtype: str,
) -> Float[Array, "T O"]:
  """`row_matmul`; a normed row is rounded to `x`'s dtype, as models do."""
  x = x_TI
  if norm_scale is not None:
    wide = x.astype(jnp.float32)
    normal = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + norm_eps)
    x = (normal * norm_scale.astype(jnp.float32)[None, :]).astype(x.dtype)
  y = jnp.einsum("ti,oi->to", x, weight_OI, preferred_element_type=jnp.float32)
  for added in (None if bias is None else bias[None, :], residual_TO):
    if added is not None:
      y = y + added.astype(jnp.float32)
  return y.astype(dtype)
