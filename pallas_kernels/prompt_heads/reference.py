"""The same steps one by one."""

import jax

from pallas_kernels.append_heads.reference import split_heads
from pallas_kernels.rotary import rotate


def prompt_heads_reference(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`prompt_heads` in plain JAX."""
  head_dim = 2 * cos.shape[2]
  query, key, value = (
    split_heads(x.reshape(*cos.shape[:2], -1), head_dim, scale, norm_eps, clip)
    for x, scale in ((query, query_norm), (key, key_norm), (value, None))
  )
  return rotate(query, cos, sin).swapaxes(1, 2), rotate(key, cos, sin).swapaxes(1, 2), value.swapaxes(1, 2)
