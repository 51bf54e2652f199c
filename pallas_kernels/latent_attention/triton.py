"""`latent_attention` on NVIDIA GPUs: a program takes some positions of one row and some of its heads.

A second kernel joins the parts of each row. A cached row is loaded once and used twice: its product with the queries
gives scores, and the scores weigh its latent. Heads are the 16-wide side of a tensor-core tile.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.decode_attention.triton import LOWEST, divisor, join_kernel, split_count
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.table_loads import RowTable
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.latent_attention.arguments import LatentArrays, LatentOptions

_HEADS, _POSITIONS = 16, 32


def objection(arrays: LatentArrays, *, options: LatentOptions) -> str | None:
  """Says why the kernels cannot take these arguments, or None."""
  query, cache, value_width = arrays.query, arrays.cache, options.value_width
  for name, width in (("a latent", value_width), ("a rotary key", cache.shape[2] - value_width)):
    if width < 16 or width & (width - 1):
      return f"it takes {name} of a power of two wide, at least 16, not {width}"
  if query.dtype != cache.dtype:
    return f"queries and cache must have one dtype, not {query.dtype.name} and {cache.dtype.name}"
  return None


def latent_attention_triton(arrays: LatentArrays, *, options: LatentOptions) -> jax.Array:
  """`latent_attention` in one launch, or in two where the sequence is split."""
  query, cache, positions, tables = arrays
  value_width = options.value_width
  rows, heads, _ = query.shape
  blocks = pl.cdiv(heads, _HEADS)
  capacity = cache.shape[1] if tables is None else tables.tables.shape[1] * BLOCK
  parts = split_count(rows, blocks, capacity)
  whole = jax.ShapeDtypeStruct((rows, heads, value_width), query.dtype)
  partial_shapes = [
    jax.ShapeDtypeStruct((rows, heads, parts, value_width), jnp.float32),
    *[jax.ShapeDtypeStruct((rows, heads, parts), jnp.float32)] * 2,
  ]
  results = call(
    functools.partial(_attend_kernel, parts=parts, options=options, paged=tables is not None),
    positions,
    query,
    cache,
    *(tables or ()),
    grid=(rows, blocks, parts),
    out_shape=[whole] if parts == 1 else partial_shapes,
    name="latent_attention",
    num_warps=4,
    num_stages=2,
  )
  if parts == 1:
    return results[0]
  (attended,) = call(
    functools.partial(join_kernel, parts=parts),
    *results,
    grid=(rows, heads),
    out_shape=[whole],
    name="join_attention",
    num_warps=4,
  )
  return attended


def _attend_kernel(positions_ref, query_ref, cache_ref, *refs, parts: int, options: LatentOptions, paged: bool):
  row, part, value_width = pl.program_id(0), pl.program_id(2), options.value_width
  table = RowTable(refs[0], refs[1][row], cache_ref.shape[0]) if paged else None
  out_refs = refs[2:] if paged else refs
  (_, heads, width), position = query_ref.shape, positions_ref[row]
  head = pl.program_id(1) * _HEADS + jnp.arange(_HEADS)
  # Heads past the last repeat it. Their results are not stored.
  head_in = jnp.minimum(head, heads - 1)
  latent, rotary = jnp.arange(value_width), value_width + jnp.arange(width - value_width)
  query = plgpu.load(query_ref.at[row, head_in[:, None], latent[None, :]])
  query_rotary = plgpu.load(query_ref.at[row, head_in[:, None], rotary[None, :]])
  dot = functools.partial(
    jnp.dot,
    precision=jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else None,
    preferred_element_type=jnp.float32,
  )

  # The row's visible positions are [0, end); this part takes [low, high) of them.
  end = jnp.minimum(position + 1, cache_ref.shape[1] if table is None else table.positions)
  if table is not None:
    end = jnp.where(table.block(position)[1], end, 0)
  share = pl.cdiv(pl.cdiv(end, parts), _POSITIONS) * _POSITIONS
  low = part * share
  high = jnp.minimum(low + share, end)

  def step(index, carry):
    attended, top, total = carry
    at = low + index * _POSITIONS + jnp.arange(_POSITIONS)
    at_in = jnp.minimum(at, high - 1)
    (values, there), (keys, _) = (_load(cache_ref, at_in, row if table is None else table, x) for x in (latent, rotary))
    scores = (dot(query, values.T) + dot(query_rotary, keys.T)) * options.scale
    scores = jnp.where(((at < high) & there)[None, :], scores, -jnp.inf)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    shares, shrink = jnp.exp(scores - new_top[:, None]), jnp.exp(top - new_top)
    attended = attended * shrink[:, None] + dot(shares.astype(values.dtype), values)
    return attended, new_top, total * shrink + jnp.sum(shares, axis=1)

  nothing = (
    jnp.zeros((_HEADS, value_width), jnp.float32), jnp.full((_HEADS,), LOWEST), jnp.zeros((_HEADS,), jnp.float32),
  )  # fmt: skip
  attended, top, total = jax.lax.fori_loop(0, pl.cdiv(jnp.maximum(high - low, 0), _POSITIONS), step, nothing)

  # Indices of heads that do not exist lie past the last one, where the interpreter drops a masked store.
  mine = head < heads
  at = jnp.where(mine, head, heads)
  mask = jnp.broadcast_to(mine[:, None], attended.shape)
  if parts == 1:
    (attended_ref,) = out_refs
    plgpu.store(
      attended_ref.at[row, at[:, None], latent[None, :]],
      (attended / divisor(total)[:, None]).astype(attended_ref.dtype),
      mask=mask,
    )
    return
  attended_ref, top_ref, total_ref = out_refs
  plgpu.store(attended_ref.at[row, at[:, None], part, latent[None, :]], attended, mask=mask)
  plgpu.store(top_ref.at[row, at, part], top, mask=mine)
  plgpu.store(total_ref.at[row, at, part], total, mask=mine)


def _load(ref, position: jax.Array, at: jax.Array | RowTable, columns: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Some columns of some positions, and whether each position is there: all are in a row of a dense cache."""
  if not isinstance(at, RowTable):
    return plgpu.load(ref.at[at, position[:, None], columns[None, :]]), jnp.full(position.shape, True)
  block, found = at.block(position)
  place = ref.at[block[:, None], (position % BLOCK)[:, None], columns[None, :]]
  mask = jnp.broadcast_to(found[:, None], (position.shape[0], columns.shape[0]))
  return plgpu.load(place, mask=mask, other=0.0), found
