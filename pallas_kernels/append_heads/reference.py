"""`append_heads` in plain JAX, one step after another."""

import jax
import jax.numpy as jnp

from pallas_kernels.append_heads.arguments import HeadOptions, StepHeads
from pallas_kernels.block_tables import BlockTables, places
from pallas_kernels.rms_norm import rms_norm_reference
from pallas_kernels.rotary import rotate


def append_heads_reference(arrays: StepHeads, *, options: HeadOptions) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`append_heads` in plain JAX."""
  head_dim, positions = arrays.cache_key.shape[3], arrays.positions
  query = rotate(split_heads(arrays.query, head_dim, arrays.query_norm, options), arrays.cos, arrays.sin)
  key = rotate(split_heads(arrays.key, head_dim, arrays.key_norm, options), arrays.cos, arrays.sin)
  value = split_heads(arrays.value, head_dim, None, options)
  return (
    query,
    write_positions(arrays.cache_key, key, positions, arrays.blocks),
    write_positions(arrays.cache_value, value, positions, arrays.blocks),
  )


def split_heads(x: jax.Array, head_dim: int, scale: jax.Array | None, options: HeadOptions) -> jax.Array:
  """Splits a projection [..., heads * H] into heads [..., heads, H], clipped and normed.

  A norm over the projection comes before the clip, a norm over each head after it.
  """
  if scale is not None and options.normed_over == "projection":
    x = rms_norm_reference(x, scale, options.norm_eps)
  if options.clip is not None:
    x = jnp.clip(x, -options.clip, options.clip)
  x = x.reshape(*x.shape[:-1], -1, head_dim)
  if scale is not None and options.normed_over == "head":
    x = rms_norm_reference(x, scale, options.norm_eps)
  return x


def write_positions(
  cache: jax.Array, new: jax.Array, positions: jax.Array, blocks: BlockTables | None = None
) -> jax.Array:
  """Writes new [B, G, H] into a cache [B, G, C, H], or with `blocks` into a pool [P, G, 32, H], at each row's position.

  A position outside the cache is not written, and neither is an absent row of a pool.
  """
  if blocks is not None:
    # On CPUs this widens a narrow pool, as the comment below says of a cache. Native code writes it in place.
    block, offset = places(blocks, positions, cache.shape[0])
    return cache.at[block, :, offset].set(new, mode="drop", unique_indices=True)
  rows = jnp.arange(positions.shape[0])

  def scatter(cache: jax.Array, new: jax.Array) -> jax.Array:
    return cache.at[rows, :, positions].set(new, mode="drop", unique_indices=True)

  def select(cache: jax.Array, new: jax.Array) -> jax.Array:
    here = positions[:, None] == jnp.arange(cache.shape[2])[None, :]
    return jnp.where(here[:, None, :, None], new[:, :, None, :], cache)

  if cache.dtype == jnp.float32:
    return scatter(cache, new)
  # XLA's CPU compiler scatters into a narrow array by widening all of it: 20 ms a step where selecting takes 9
  # (16 rows, 8 layers, 128 positions of 16 heads).
  return jax.lax.platform_dependent(cache, new, cpu=select, default=scatter)
