"""`decode_attention` on NVIDIA GPUs: a program takes some positions of one row and one group of heads.

A second kernel joins the parts of each row. The queries of a group are the 16-wide side of a tensor-core tile, so keys
and values are read once for all of them. Each program keeps a running maximum and rescales its sums (arXiv 1805.02867).
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.decode_attention.arguments import AttentionArrays, AttentionOptions
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.table_loads import RowTable
from pallas_kernels.gpu.triton_backend import pl, plgpu

# 264 programs fill an H100's 132 multiprocessors twice. A program is worth its launch from 128 positions on.
_PROGRAMS, _LEAST_PART = 264, 128
_LEAST_QUERIES = 16
# The top score before the first one. It is finite, because all positions of a block may be missing: the difference of
# two infinities is NaN.
LOWEST = -1e30


def objection(arrays: AttentionArrays, *, options: AttentionOptions) -> str | None:
  """Says why the kernels cannot take these arguments, or None."""
  query, key, value = arrays.query, arrays.key, arrays.value
  head_dim = query.shape[2]
  if head_dim < 16 or head_dim & (head_dim - 1):
    return f"it takes heads of a power of two wide, at least 16, not {head_dim}"
  if query.shape[1] // key.shape[1] > 64:
    return f"it takes at most 64 queries a group, not {query.shape[1] // key.shape[1]}"
  if not query.dtype == key.dtype == value.dtype:
    return f"queries and cache must have one dtype, not {query.dtype.name}, {key.dtype.name} and {value.dtype.name}"
  return None


def split_count(rows: int, groups: int, span: int) -> int:
  """How many parts each row's `span` positions are cut into, so that few rows give work to a whole GPU."""
  wanted = max(1, _PROGRAMS // (rows * groups))
  return min(wanted, max(1, span // _LEAST_PART))


def decode_attention_triton(arrays: AttentionArrays, *, options: AttentionOptions) -> jax.Array:
  """`decode_attention` in one launch, or in two where the sequence is split."""
  query, key, value, positions, sinks, blocks = arrays
  rows, heads, width = query.shape
  groups, capacity = key.shape[1], key.shape[2] if blocks is None else blocks.tables.shape[1] * BLOCK
  span = min(bound for bound in (capacity, options.window, options.chunk) if bound is not None)
  parts = split_count(rows, groups, span)
  whole = jax.ShapeDtypeStruct(query.shape, query.dtype)
  partial_shapes = [
    jax.ShapeDtypeStruct((rows, heads, parts, width), jnp.float32),
    *[jax.ShapeDtypeStruct((rows, heads, parts), jnp.float32)] * 2,
  ]
  extra = () if sinks is None else (sinks,)
  results = call(
    functools.partial(
      _attend_kernel, options=options, parts=parts, sinks=sinks is not None, paged=blocks is not None
    ),
    positions, query, key, value, *(blocks or ()), *(extra if parts == 1 else ()),
    grid=(rows * groups, parts),
    out_shape=[whole] if parts == 1 else partial_shapes,
    name="decode_attention",
    num_warps=4,
    num_stages=2,
  )  # fmt: skip
  if parts == 1:
    return results[0]
  (attended,) = call(
    functools.partial(join_kernel, parts=parts),
    *results,
    *extra,
    grid=(rows, groups),
    out_shape=[whole],
    name="join_attention",
    num_warps=4,
  )
  return attended


def _attend_kernel(
  positions_ref, query_ref, key_ref, value_ref, *refs, options: AttentionOptions, parts: int, sinks: bool, paged: bool
):
  """Attends to one part of one row's positions, for one group of heads."""
  row, group = pl.program_id(0) // key_ref.shape[1], pl.program_id(0) % key_ref.shape[1]
  part = pl.program_id(1)
  table = RowTable(refs[0], refs[1][row], key_ref.shape[0]) if paged else None
  refs = refs[2:] if paged else refs
  (_, heads, width), position = query_ref.shape, positions_ref[row]
  queries = heads // key_ref.shape[1]
  query_index = jnp.arange(max(_LEAST_QUERIES, pl.next_power_of_2(queries)))
  # Queries past the last repeat it. Their results are not stored.
  head = group * queries + jnp.minimum(query_index, queries - 1)
  query = plgpu.load(query_ref.at[row, head[:, None], jnp.arange(width)[None, :]])
  first, end = _visible(position, key_ref.shape[2] if table is None else table.positions, options)
  if table is not None:
    end = jnp.where(table.block(position)[1], end, first)
  read = functools.partial(_load, at=row if table is None else table, group=group)
  attended, top, total = _attend_part(
    functools.partial(read, key_ref), functools.partial(read, value_ref), query, (first, end), (part, parts),
    options.scale,
  )  # fmt: skip

  mine = query_index < queries
  # Indices of queries that do not exist lie past the last head, where the interpreter drops a masked store.
  at, column = jnp.where(mine, head, heads), jnp.arange(width)
  grid_mask = jnp.broadcast_to(mine[:, None], attended.shape)
  if parts == 1:
    if sinks:
      total += jnp.exp(plgpu.load(refs[0].at[head]).astype(jnp.float32) - top)
    attended_ref = refs[-1]
    value_out = (attended / divisor(total)[:, None]).astype(attended_ref.dtype)
    plgpu.store(attended_ref.at[row, at[:, None], column[None, :]], value_out, mask=grid_mask)
    return
  attended_ref, top_ref, total_ref = refs
  plgpu.store(attended_ref.at[row, at[:, None], part, column[None, :]], attended, mask=grid_mask)
  plgpu.store(top_ref.at[row, at, part], top, mask=mine)
  plgpu.store(total_ref.at[row, at, part], total, mask=mine)


def _visible(position: jax.Array, capacity: int, options: AttentionOptions) -> tuple[jax.Array | int, jax.Array]:
  """The row's visible positions, as [first, end)."""
  end = jnp.minimum(position + 1, capacity)
  first = 0 if options.window is None else jnp.maximum(0, position + 1 - options.window)
  if options.chunk is not None:
    first = jnp.maximum(first, position // options.chunk * options.chunk)
  return first, end


def _load(ref, position: jax.Array, *, at: jax.Array | RowTable, group: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Keys or values of some positions, and whether each is there: all are in a row of a dense cache."""
  column = jnp.arange(ref.shape[3])[None, :]
  if not isinstance(at, RowTable):
    return plgpu.load(ref.at[at, group, position[:, None], column]), jnp.full(position.shape, True)
  block, found = at.block(position)
  place = ref.at[block[:, None], group, (position % BLOCK)[:, None], column]
  mask = jnp.broadcast_to(found[:, None], (position.shape[0], ref.shape[3]))
  return plgpu.load(place, mask=mask, other=0.0), found


def divisor(total: jax.Array) -> jax.Array:
  """What the sum of values is divided by: a row that sees nothing has a total of zero, and a sum of zero."""
  return jnp.where(total == 0, 1.0, total)


def _attend_part(read_keys, read_values, query: jax.Array, span, part_of: tuple[jax.Array, int], scale: float):
  """Attends to one of equal parts of the positions [first, end): the sum of values, the top score, the total share."""
  (first, end), (part, parts) = span, part_of
  size, width = query.shape
  exact = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None
  block = 64 if width <= 128 else 32
  share = pl.cdiv(pl.cdiv(end - first, parts), block) * block
  low = first + part * share
  high = jnp.minimum(low + share, end)

  def step(index, carry):
    attended, top, total = carry
    at = low + index * block + jnp.arange(block)
    at_in = jnp.minimum(at, high - 1)
    keys, there = read_keys(at_in)
    scores = jnp.dot(query, keys.T, precision=exact, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(((at < high) & there)[None, :], scores, -jnp.inf)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    shares, shrink = jnp.exp(scores - new_top[:, None]), jnp.exp(top - new_top)
    values, _ = read_values(at_in)
    added = jnp.dot(shares.astype(values.dtype), values, precision=exact, preferred_element_type=jnp.float32)
    return attended * shrink[:, None] + added, new_top, total * shrink + jnp.sum(shares, axis=1)

  nothing = jnp.zeros((size, width), jnp.float32), jnp.full((size,), LOWEST), jnp.zeros((size,), jnp.float32)
  return jax.lax.fori_loop(0, pl.cdiv(jnp.maximum(high - low, 0), block), step, nothing)


def join_kernel(attended_ref, top_ref, total_ref, *refs, parts: int):
  """Joins the parts of a row for some of its heads: each part is scaled to the largest of the parts' maxima."""
  out_ref = refs[-1]
  row, group = pl.program_id(0), pl.program_id(1)
  queries = out_ref.shape[1] // pl.num_programs(1)
  index = jnp.arange(pl.next_power_of_2(queries))
  head = group * queries + jnp.minimum(index, queries - 1)
  column = jnp.arange(out_ref.shape[2])

  def largest(part, top):
    return jnp.maximum(top, plgpu.load(top_ref.at[row, head, part]))

  sink = plgpu.load(refs[0].at[head]).astype(jnp.float32) if len(refs) == 2 else jnp.full(head.shape, -jnp.inf)
  top = jax.lax.fori_loop(0, parts, largest, sink)

  def add(part, carry):
    attended, total = carry
    scale = jnp.exp(plgpu.load(top_ref.at[row, head, part]) - top)
    more = plgpu.load(attended_ref.at[row, head[:, None], part, column[None, :]])
    return attended + more * scale[:, None], total + plgpu.load(total_ref.at[row, head, part]) * scale

  nothing = jnp.zeros((head.shape[0], column.shape[0]), jnp.float32), jnp.exp(sink - top)
  attended, total = jax.lax.fori_loop(0, parts, add, nothing)
  mine = index < queries
  at = jnp.where(mine, head, out_ref.shape[1])
  value_out = (attended / divisor(total)[:, None]).astype(out_ref.dtype)
  plgpu.store(
    out_ref.at[row, at[:, None], column[None, :]], value_out, mask=jnp.broadcast_to(mine[:, None], attended.shape)
  )
