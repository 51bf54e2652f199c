"""`decode_attention` in plain JAX: scores of every position of the cache, masked."""

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import gather_blocks, held
from pallas_kernels.decode_attention.arguments import AttentionArrays, AttentionOptions


def decode_attention_reference(arrays: AttentionArrays, *, options: AttentionOptions) -> jax.Array:
  """`decode_attention` over whole arrays.

  Rows and groups are one batch axis Z, the queries of a group one axis M: the CPU's bfloat16 products into float32
  refuse two batch axes (jax 0.10.2, "Unsupported element type for DotThunk").
  """
  query, key, value, positions, sinks, blocks = arrays
  in_pool = None
  if blocks is not None:
    in_pool = held(blocks, positions, key.shape[0])
    key, value = gather_blocks(key, blocks), gather_blocks(value, blocks)
  window, chunk = options.window, options.chunk
  rows, heads, width = query.shape
  groups, capacity = key.shape[1:3]
  at = jnp.arange(capacity)
  visible = at[None, :] <= positions[:, None]
  if window is not None:
    visible &= at[None, :] > positions[:, None] - window
  if chunk is not None:
    visible &= at[None, :] >= positions[:, None] // chunk * chunk
  if in_pool is not None:
    visible &= in_pool
    # What the row does not see may be another sequence's NaN, whose product with a share of zero is not zero.
    value = jnp.where(visible[:, None, :, None], value, 0)
  query_ZMH = query.reshape(rows * groups, heads // groups, width)
  key_ZCH, value_ZCH = (x.reshape(rows * groups, capacity, width) for x in (key, value))
  scores = jnp.einsum("zmh,zch->zmc", query_ZMH, key_ZCH, preferred_element_type=jnp.float32)
  scores = scores.reshape(rows, heads, capacity) * options.scale
  scores = jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min)
  if sinks is None:
    share = jax.nn.softmax(scores, axis=-1)
  else:
    sink = jnp.broadcast_to(sinks.astype(jnp.float32)[None, :, None], (rows, heads, 1))
    share = jax.nn.softmax(jnp.concatenate([scores, sink], axis=-1), axis=-1)[..., :-1]
  share_ZMC = share.astype(value.dtype).reshape(rows * groups, heads // groups, capacity)
  attended = jnp.einsum("zmc,zch->zmh", share_ZMC, value_ZCH, preferred_element_type=jnp.float32)
  attended = attended.reshape(query.shape)
  if in_pool is not None:
    attended = jnp.where(in_pool.any(axis=1)[:, None, None], attended, 0)
  return attended.astype(query.dtype)
