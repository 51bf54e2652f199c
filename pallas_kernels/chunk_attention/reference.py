"""`chunk_attention` in plain JAX: one tile after the other attends to its whole table, masked."""

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK, BlockTables, row_tables
from pallas_kernels.chunk_attention.arguments import ChunkArrays, ChunkOptions
from pallas_kernels.chunk_attention.query_tiles import MOST_QUERIES, QueryTiles


def chunk_attention_reference(arrays: ChunkArrays, *, options: ChunkOptions) -> jax.Array:
  """`chunk_attention` with the scores of one tile at a time, [N, 16, C] for the C = M * 32 positions of a table."""
  query, tiles = arrays.query, arrays.tiles
  tables = row_tables(BlockTables(arrays.tables, tiles.slot), arrays.key.shape[0])
  attended_QTNU = jax.lax.map(lambda tile: _attend(arrays, *tile, options=options), (tiles, tables))
  index = jnp.arange(MOST_QUERIES)[None, :]
  # Rows past the last one are dropped: those of idle tiles, and those that a tile has no queries for.
  rows = jnp.where(index < tiles.count[:, None], tiles.start[:, None] + index, query.shape[0])
  attended = jnp.zeros((*query.shape[:2], options.value_width), query.dtype)
  return attended.at[rows].set(attended_QTNU, mode="drop")


def _attend(arrays: ChunkArrays, tile: QueryTiles, table_M: jax.Array, options: ChunkOptions) -> jax.Array:
  """The results of one tile [16, N, U].

  The queries and heads of a group are one axis Z: the CPU's bfloat16 products into float32 refuse two batch axes (jax
  0.10.2, "Unsupported element type for DotThunk").
  """
  heads, width = arrays.query.shape[1:]
  groups = arrays.key.shape[1]
  rows = jnp.clip(tile.start + jnp.arange(MOST_QUERIES), 0, arrays.query.shape[0] - 1)
  query_GZH = arrays.query[rows].reshape(MOST_QUERIES, groups, heads // groups, width)
  query_GZH = query_GZH.swapaxes(0, 1).reshape(groups, -1, width)
  visible_TC = _visible(tile, table_M, options)
  key_GCH = _gathered(arrays.key, table_M)
  value = arrays.key[..., : options.value_width] if arrays.value is None else arrays.value
  # What no query of the tile sees may hold anything, also numbers whose product with a share of zero is not zero.
  value_GCU = jnp.where(visible_TC.any(0)[None, :, None], _gathered(value, table_M), 0)

  scores = jnp.einsum("gzh,gch->gzc", query_GZH, key_GCH, preferred_element_type=jnp.float32) * options.scale
  scores = scores.reshape(groups, MOST_QUERIES, heads // groups, -1)
  scores = jnp.where(visible_TC[None, :, None], scores, jnp.finfo(jnp.float32).min)
  if arrays.sinks is not None:
    sinks = arrays.sinks.astype(jnp.float32).reshape(groups, 1, -1, 1)
    scores = jnp.concatenate([scores, jnp.broadcast_to(sinks, (*scores.shape[:-1], 1))], axis=-1)
  share = jax.nn.softmax(scores, axis=-1)[..., : visible_TC.shape[1]]
  # A query that sees nothing has equal shares of everything.
  share = jnp.where(visible_TC[None, :, None], share, 0).astype(value_GCU.dtype).reshape(*query_GZH.shape[:2], -1)
  attended = jnp.einsum("gzc,gcu->gzu", share, value_GCU, preferred_element_type=jnp.float32)
  attended = attended.reshape(groups, MOST_QUERIES, heads // groups, -1).swapaxes(0, 1)
  return attended.reshape(MOST_QUERIES, heads, -1).astype(arrays.query.dtype)


def _visible(tile: QueryTiles, table_M: jax.Array, options: ChunkOptions) -> jax.Array:
  """Which positions of a table each query sees [16, C]; none, if the query is absent or its tile has fewer."""
  index = jnp.arange(MOST_QUERIES)[:, None]
  at = jnp.arange(table_M.shape[0] * BLOCK)[None, :]
  own = tile.position + index
  held = jnp.repeat(table_M >= 0, BLOCK)[None, :]
  visible_TC = (at <= own) & held
  if options.window is not None:
    visible_TC &= at > own - options.window
  if options.chunk is not None:
    visible_TC &= at >= own // options.chunk * options.chunk
  present = (index < tile.count) & jnp.any(held & (at == own), axis=1, keepdims=True)
  return visible_TC & present


def _gathered(pool: jax.Array, table_M: jax.Array) -> jax.Array:
  """The positions of a table side by side, [G, C, _]."""
  return pool[jnp.maximum(table_M, 0)].swapaxes(0, 1).reshape(pool.shape[1], -1, pool.shape[3])
