"""`chunk_attention` on NVIDIA GPUs: a program takes one tile of queries and some heads of one group.

The queries times the heads are the rows of a tensor core's tile, so a block of keys and values is read once for all of
them. A program keeps running maxima and rescales its sums (arXiv 1805.02867), block after block of its sequence, and a
program whose tile is idle returns at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.chunk_attention.arguments import ChunkArrays, ChunkOptions
from pallas_kernels.chunk_attention.query_tiles import MOST_QUERIES
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu

# Rows of a program's tile, queries times heads, and its warps. Where values are wide, as latents are, a warp has
# registers for fewer rows.
_ROWS, _WARPS = 64, 4
_WIDE, _ROWS_OF_WIDE, _WARPS_OF_WIDE = 256, 32, 8
_LEAST_WIDTH = 16
# The score of positions that a query does not see, and the top score of a query that has seen none.
_UNSEEN = -1e30


def objection(arrays: ChunkArrays, *, options: ChunkOptions) -> str | None:
  """Says why the kernel cannot take these arguments, or None."""
  query, key, value = arrays.query, arrays.key, arrays.value
  rest = key.shape[3] - options.value_width if value is None else 0
  for name, width in (("keys", key.shape[3]), ("values", options.value_width), ("what follows a latent", rest)):
    if width % _LEAST_WIDTH:
      return f"it takes {name} of a multiple of {_LEAST_WIDTH} numbers, not {width}"
  for array in (key, value):
    if array is not None and array.dtype != query.dtype:
      return f"queries and cache must have one dtype, not {query.dtype.name} and {array.dtype.name}"
  return None


def heads_of_program(rest: int, value_width: int) -> int:
  """How many of a group's `rest` query heads a program takes: a power of two."""
  rows = _ROWS_OF_WIDE if value_width >= _WIDE else _ROWS
  return min(pl.next_power_of_2(rest), rows // MOST_QUERIES)


def chunk_attention_triton(arrays: ChunkArrays, *, options: ChunkOptions) -> jax.Array:
  """`chunk_attention` in one launch, which writes into zeros."""
  query, key, value, tiles, tables, sinks = arrays
  groups = key.shape[1]
  rest = query.shape[1] // groups
  heads = heads_of_program(rest, options.value_width)
  whole = jax.ShapeDtypeStruct((*query.shape[:2], options.value_width), query.dtype)
  values = () if value is None else (value,)
  extra = () if sinks is None else (sinks,)
  (attended,) = call(
    functools.partial(_kernel, heads=heads, latent=value is None, options=options),
    jnp.zeros(whole.shape, whole.dtype),
    *(*tiles, tables, query, key, *values, *extra),
    grid=(groups * pl.cdiv(rest, heads), tiles.start.shape[0]),
    out_shape=[whole],
    name="chunk_attention",
    num_warps=_WARPS_OF_WIDE if options.value_width >= _WIDE else _WARPS,
    num_stages=2,
    input_output_aliases={0: 0},
  )
  return attended


class _Queries(NamedTuple):
  """The queries of a program, one for each row of its tile.

  Attributes:
    row: the row of the step.
    head: the query head.
    first: the first position that it sees.
    last: the last one; before `first`, if it sees none.
    stored: whether its result is written: others repeat a query, to fill the tile.
  """

  row: jax.Array
  head: jax.Array
  first: jax.Array
  last: jax.Array
  stored: jax.Array


class _Pieces(NamedTuple):
  """Columns of keys and values in pieces of a power of two, which Triton's blocks must be."""

  keys: tuple[jax.Array, ...]
  values: tuple[jax.Array, ...]


def _columns(begin: int, end: int) -> tuple[jax.Array, ...]:
  """Columns [begin, end) in pieces, the largest first."""
  pieces = []
  while begin < end:
    width = 1 << ((end - begin).bit_length() - 1)
    pieces.append(begin + jnp.arange(width))
    begin += width
  return tuple(pieces)


def _kernel(_, *refs, heads: int, latent: bool, options: ChunkOptions):
  (start_ref, count_ref, slot_ref, position_ref, tables_ref, query_ref, key_ref, *rest_refs) = refs
  value_ref = key_ref if latent else rest_refs.pop(0)
  attended_ref = rest_refs.pop()
  tile, parts = pl.program_id(1), pl.num_programs(0) // key_ref.shape[1]
  group, part = pl.program_id(0) // parts, pl.program_id(0) % parts
  count, slot, position = count_ref[tile], slot_ref[tile], position_ref[tile]
  slots, entries = tables_ref.shape
  known = (slot >= 0) & (slot < slots)
  slot = jnp.where(known, slot, 0)

  def block_at(entry):
    """The blocks of some table entries, and whether each is in the pool."""
    inside = known & (entry >= 0) & (entry < entries)
    block = plgpu.load(tables_ref.at[slot, jnp.where(inside, entry, 0)])
    return block, inside & (block >= 0) & (block < key_ref.shape[0])

  @pl.when((count > 0) & known)
  def attend():
    queries = _queries(query_ref, (group, part, heads, key_ref.shape[1]), start_ref[tile], count, position, options)
    _, present = block_at(queries.last // BLOCK)
    queries = queries._replace(last=jnp.where(present & (queries.last >= 0), queries.last, -1))
    width, value_width = key_ref.shape[3], options.value_width
    values = _columns(0, value_width)
    keys = (*values, *_columns(value_width, width)) if latent else _columns(0, width)
    end = jnp.minimum(position + count, entries * BLOCK)
    sums, top, total = _attend(
      (query_ref, key_ref, value_ref), group, queries, _Pieces(keys, values), block_at,
      (_first_seen(position, options), end), latent, options,
    )  # fmt: skip
    factor = jnp.ones_like(total)
    if rest_refs:
      sink = plgpu.load(rest_refs[0].at[queries.head]).astype(jnp.float32)
      most = jnp.maximum(top, sink)
      factor = jnp.exp(top - most)
      total = total * factor + jnp.exp(sink - most)
    # A query that sees nothing has a total of zero, and sums of zero.
    factor = factor / jnp.where(total == 0, 1.0, total)
    # Rows that are not stored lie past the last one, where the interpreter drops a masked store.
    row = jnp.where(queries.stored, queries.row, attended_ref.shape[0])
    for columns, piece in zip(values, sums, strict=True):
      at = attended_ref.at[row[:, None], queries.head[:, None], columns[None, :]]
      mask = jnp.broadcast_to(queries.stored[:, None], piece.shape)
      plgpu.store(at, (piece * factor[:, None]).astype(attended_ref.dtype), mask=mask)


def _first_seen(position: jax.Array, options: ChunkOptions) -> jax.Array:
  first = jnp.zeros_like(position)
  if options.window is not None:
    first = jnp.maximum(first, position + 1 - options.window)
  if options.chunk is not None:
    first = jnp.maximum(first, position // options.chunk * options.chunk)
  return first


def _queries(query_ref, heads_at: tuple, start, count, position, options: ChunkOptions) -> _Queries:
  """The queries of a tile for some heads of a group: of each row all heads, row after row."""
  group, part, heads, groups = heads_at
  rest = query_ref.shape[1] // groups
  index = jnp.arange(MOST_QUERIES * heads)
  query, head = index // heads, part * heads + index % heads
  row, own = start + query, position + query
  stored = (query < count) & (head < rest) & (row >= 0) & (row < query_ref.shape[0])
  row = jnp.clip(row, 0, query_ref.shape[0] - 1)
  last = jnp.where(query < count, own, -1)
  return _Queries(row, group * rest + jnp.minimum(head, rest - 1), _first_seen(own, options), last, stored)


def _attend(refs, group, queries: _Queries, pieces: _Pieces, block_at, span, latent: bool, options: ChunkOptions):
  """Attends to the blocks that hold positions [first, end): the sums of values, the top scores, the total shares."""
  (query_ref, key_ref, value_ref), (first, end) = refs, span
  rows = queries.row.shape[0]
  dot = functools.partial(
    jnp.dot,
    precision=jax.lax.Precision.HIGHEST if query_ref.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )
  query = [
    plgpu.load(query_ref.at[queries.row[:, None], queries.head[:, None], columns[None, :]]) for columns in pieces.keys
  ]
  offset = jnp.arange(BLOCK)

  def loaded(ref, block, readable, columns):
    # What nobody sees may hold anything: zeros take its place.
    at = ref.at[block, group, offset[:, None], columns[None, :]]
    return plgpu.load(at, mask=jnp.broadcast_to(readable[:, None], (BLOCK, columns.shape[0])), other=0)

  def step(entry, carry):
    sums, top, total = carry
    block, held = block_at(entry)
    at = entry * BLOCK + offset
    readable = held & (at >= first) & (at < end)
    block = jnp.where(held, block, 0)
    keys = [loaded(key_ref, block, readable, columns) for columns in pieces.keys]
    scores = functools.reduce(jnp.add, [dot(q, k.T) for q, k in zip(query, keys, strict=True)]) * options.scale
    seen = readable[None, :] & (at[None, :] >= queries.first[:, None]) & (at[None, :] <= queries.last[:, None])
    scores = jnp.where(seen, scores, _UNSEEN)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    shares = jnp.where(seen, jnp.exp(scores - new_top[:, None]), 0.0)
    shrink = jnp.exp(top - new_top)
    values = keys[: len(sums)] if latent else [loaded(value_ref, block, readable, columns) for columns in pieces.values]
    weights = shares.astype(values[0].dtype)
    added = [s * shrink[:, None] + dot(weights, v) for s, v in zip(sums, values, strict=True)]
    return tuple(added), new_top, total * shrink + jnp.sum(shares, axis=1)

  sums = tuple(jnp.zeros((rows, columns.shape[0]), jnp.float32) for columns in pieces.values)
  nothing = sums, jnp.full((rows,), _UNSEEN, jnp.float32), jnp.zeros((rows,), jnp.float32)
  return jax.lax.fori_loop(first // BLOCK, pl.cdiv(end, BLOCK), step, nothing)
