"""A program for some positions of one row and one group of heads; a second kernel joins a row's parts.

The queries of a group are the 16-wide side of a tensor-core tile, so that keys and values are read once for all of
them. Each program keeps a running maximum and rescales (arXiv 1805.02867).
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.gpu.pallas_call import call

# Programs that fill an H100's 132 multiprocessors twice, and the fewest positions that are worth a program.
_PROGRAMS, _LEAST_PART = 264, 128
_LEAST_QUERIES = 16


def objection(query, key, value, positions, sinks, *, window, chunk, scale) -> str | None:
  """Why the kernels cannot take these arguments, or None."""
  head_dim = query.shape[2]
  if head_dim < 16 or head_dim & (head_dim - 1):
    return f"it takes heads of a power of two wide, at least 16, not {head_dim}"
  if query.shape[1] // key.shape[1] > 64:
    return f"it takes at most 64 queries a group, not {query.shape[1] // key.shape[1]}"
  if not query.dtype == key.dtype == value.dtype:
    return f"queries and cache must have one dtype, not {query.dtype.name}, {key.dtype.name} and {value.dtype.name}"
  return None


def split_count(rows: int, groups: int, span: int) -> int:
  """Parts into which each row's `span` positions are cut, so that few rows give work to a whole GPU."""
  wanted = max(1, _PROGRAMS // (rows * groups))
  return min(wanted, max(1, span // _LEAST_PART))


def decode_attention_triton(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  sinks: jax.Array | None,
  *,
  window: int | None,
  chunk: int | None,
  scale: float,
) -> jax.Array:
  """`decode_attention` in one launch, or in two where the sequence is split."""
  rows, heads, width = query.shape
  groups, capacity = key.shape[1:3]
  span = min(bound for bound in (capacity, window, chunk) if bound is not None)
  parts = split_count(rows, groups, span)
  whole = jax.ShapeDtypeStruct(query.shape, query.dtype)
  partial_shapes = [
    jax.ShapeDtypeStruct((rows, heads, parts, width), jnp.float32),
    *[jax.ShapeDtypeStruct((rows, heads, parts), jnp.float32)] * 2,
  ]
  extra = () if sinks is None else (sinks,)
  results = call(
    functools.partial(
      _attend_kernel, window=window, chunk=chunk, scale=scale, parts=parts, sinks=sinks is not None
    ),
    positions, query, key, value, *(extra if parts == 1 else ()),
    grid=(rows * groups, parts),
    out_shape=[whole] if parts == 1 else partial_shapes,
    name="decode_attention",
    num_warps=4,
    num_stages=2,
  )  # fmt: skip
  if parts == 1:
    return results[0]
  (mixed,) = call(
    functools.partial(join_kernel, parts=parts),
    *results,
    *extra,
    grid=(rows, groups),
    out_shape=[whole],
    name="join_attention",
    num_warps=4,
  )
  return mixed


def _attend_kernel(
  positions_ref,
  query_ref,
  key_ref,
  value_ref,
  *refs,
  window: int | None,
  chunk: int | None,
  scale: float,
  parts: int,
  sinks: bool,
):
  row, group = pl.program_id(0) // key_ref.shape[1], pl.program_id(0) % key_ref.shape[1]
  part = pl.program_id(1)
  (_, heads, width), capacity = query_ref.shape, key_ref.shape[2]
  queries = heads // key_ref.shape[1]
  query_index = jnp.arange(max(_LEAST_QUERIES, pl.next_power_of_2(queries)))
  # Queries past the last repeat it: what they give is not stored.
  head = group * queries + jnp.minimum(query_index, queries - 1)
  column = jnp.arange(width)
  query = plgpu.load(query_ref.at[row, head[:, None], column[None, :]])
  exact = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None

  # The row's visible positions are [first, end); this part takes [low, high) of them.
  position = positions_ref[row]
  end = jnp.minimum(position + 1, capacity)
  first = 0 if window is None else jnp.maximum(0, position + 1 - window)
  if chunk is not None:
    first = jnp.maximum(first, position // chunk * chunk)
  block = 64 if width <= 128 else 32
  share = pl.cdiv(pl.cdiv(end - first, parts), block) * block
  low = first + part * share
  high = jnp.minimum(low + share, end)

  def step(index, carry):
    mixed, top, total = carry
    at = low + index * block + jnp.arange(block)
    at_in = jnp.minimum(at, high - 1)
    keys = plgpu.load(key_ref.at[row, group, at_in[:, None], column[None, :]])
    scores = jnp.dot(query, keys.T, precision=exact, preferred_element_type=jnp.float32) * scale
    scores = jnp.where((at < high)[None, :], scores, -jnp.inf)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    shares, shrink = jnp.exp(scores - new_top[:, None]), jnp.exp(top - new_top)
    values = plgpu.load(value_ref.at[row, group, at_in[:, None], column[None, :]])
    added = jnp.dot(shares.astype(values.dtype), values, precision=exact, preferred_element_type=jnp.float32)
    return mixed * shrink[:, None] + added, new_top, total * shrink + jnp.sum(shares, axis=1)

  size = query_index.shape[0]
  nothing = jnp.zeros((size, width), jnp.float32), jnp.full((size,), -jnp.inf), jnp.zeros((size,), jnp.float32)
  mixed, top, total = jax.lax.fori_loop(0, pl.cdiv(jnp.maximum(high - low, 0), block), step, nothing)

  mine = query_index < queries
  # Indices of queries that do not exist lie past the last head, where the interpreter drops a masked store.
  at = jnp.where(mine, head, heads)
  grid_mask = jnp.broadcast_to(mine[:, None], mixed.shape)
  if parts == 1:
    if sinks:
      total += jnp.exp(plgpu.load(refs[0].at[head]).astype(jnp.float32) - top)
    mixed_ref = refs[-1]
    value_out = (mixed / total[:, None]).astype(mixed_ref.dtype)
    plgpu.store(mixed_ref.at[row, at[:, None], column[None, :]], value_out, mask=grid_mask)
    return
  mixed_ref, top_ref, total_ref = refs
  plgpu.store(mixed_ref.at[row, at[:, None], part, column[None, :]], mixed, mask=grid_mask)
  plgpu.store(top_ref.at[row, at, part], top, mask=mine)
  plgpu.store(total_ref.at[row, at, part], total, mask=mine)


def join_kernel(mixed_ref, top_ref, total_ref, *refs, parts: int):
  """Sums a row's parts, each scaled to their largest maximum; some heads a program."""
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
    mixed, total = carry
    scale = jnp.exp(plgpu.load(top_ref.at[row, head, part]) - top)
    more = plgpu.load(mixed_ref.at[row, head[:, None], part, column[None, :]])
    return mixed + more * scale[:, None], total + plgpu.load(total_ref.at[row, head, part]) * scale

  nothing = jnp.zeros((head.shape[0], column.shape[0]), jnp.float32), jnp.exp(sink - top)
  mixed, total = jax.lax.fori_loop(0, parts, add, nothing)
  mine = index < queries
  at = jnp.where(mine, head, out_ref.shape[1])
  value_out = (mixed / total[:, None]).astype(out_ref.dtype)
  plgpu.store(
    out_ref.at[row, at[:, None], column[None, :]], value_out, mask=jnp.broadcast_to(mine[:, None], mixed.shape)
  )
