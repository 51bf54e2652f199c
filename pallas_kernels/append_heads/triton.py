"""`append_heads` on NVIDIA GPUs: a row has three programs: queries, keys, values. Caches are written in place."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.append_heads.arguments import HeadOptions, StepHeads
from pallas_kernels.block_tables import BLOCK
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.table_loads import RowTable
from pallas_kernels.gpu.triton_backend import pl, plgpu


def objection(arrays: StepHeads, *, options: HeadOptions) -> str | None:
  """Says why the kernel cannot take these arguments, or None."""
  head_dim, width = arrays.cache_key.shape[3], arrays.query.shape[1]
  if head_dim < 4 or head_dim & (head_dim - 1):
    return f"it takes heads of a power of two wide, not {head_dim}"
  if width > 16384:
    return f"it takes queries of at most 16384 values, not {width}"
  return None


def append_heads_triton(arrays: StepHeads, *, options: HeadOptions) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`append_heads` in one launch."""
  query, cache_key, cache_value = arrays.query, arrays.cache_key, arrays.cache_value
  rows, head_dim = query.shape[0], cache_key.shape[3]
  # The caches come first, because the results that share their memory are named by position.
  names = ("cache_key", "cache_value", "query", "key", "value", "positions", "cos", "sin", "query_norm", "key_norm")
  given = {name: array for name in names if (array := getattr(arrays, name)) is not None}
  given |= {} if arrays.blocks is None else arrays.blocks._asdict()
  return tuple(
    call(
      functools.partial(_kernel, names=tuple(given), options=options),
      *given.values(),
      grid=(rows, 3),
      out_shape=[
        jax.ShapeDtypeStruct((rows, query.shape[1] // head_dim, head_dim), query.dtype),
        jax.ShapeDtypeStruct(cache_key.shape, cache_key.dtype),
        jax.ShapeDtypeStruct(cache_value.shape, cache_value.dtype),
      ],
      name="append_heads",
      num_warps=8 if query.shape[1] > 4096 else 4,
      input_output_aliases={0: 1, 1: 2},
    )
  )


def _kernel(*refs, names: tuple[str, ...], options: HeadOptions):
  given, (query_out, key_out, value_out) = dict(zip(names, refs, strict=False)), refs[len(names) :]
  row, part = pl.program_id(0), pl.program_id(1)
  place = _place(given, row)
  half = given["cos"].shape[1]
  cos, sin = (plgpu.load(given[name].at[row, jnp.arange(half)])[None, :] for name in ("cos", "sin"))
  heads = functools.partial(_heads, row=row, half=half, options=options)

  def rotated(x_ref, norm_ref) -> tuple[jax.Array, jax.Array]:
    first, second = heads(x_ref, norm_ref)
    return first * cos - second * sin, second * cos + first * sin

  def write(cache_ref, halves: tuple[jax.Array, jax.Array]) -> None:
    for index, values in enumerate(halves):
      head = jnp.arange(values.shape[0])[:, None]
      mask = (head < cache_ref.shape[1]) & place.inside
      at = cache_ref.at[place.row, head, place.position, (index * half + jnp.arange(half))[None, :]]
      plgpu.store(at, values.astype(cache_ref.dtype), mask=jnp.broadcast_to(mask, values.shape))

  @pl.when(part == 0)
  def write_query():
    for index, values in enumerate(rotated(given["query"], given.get("query_norm"))):
      head = jnp.arange(values.shape[0])[:, None]
      at = query_out.at[row, head, (index * half + jnp.arange(half))[None, :]]
      mask = jnp.broadcast_to(head < query_out.shape[1], values.shape)
      plgpu.store(at, values.astype(query_out.dtype), mask=mask)

  @pl.when(part == 1)
  def write_key():
    write(key_out, rotated(given["key"], given.get("key_norm")))

  @pl.when(part == 2)
  def write_value():
    write(value_out, heads(given["value"], None))


class _Place(NamedTuple):
  """Where a row writes: a position of a row of a dense cache, or of a block of a pool."""

  inside: jax.Array
  row: jax.Array
  position: jax.Array


def _place(given: dict[str, Any], row: jax.Array) -> _Place:
  position, (rows, _, capacity, _) = given["positions"][row], given["cache_key"].shape
  if "tables" not in given:
    return _Place(position < capacity, row, position)
  block, inside = RowTable(given["tables"], given["slots"][row], rows).block(position)
  # A block that does not exist lies past the last one, where the interpreter drops a masked store.
  return _Place(inside, jnp.where(inside, block, rows), jnp.where(inside, position % BLOCK, 0))


def _heads(x_ref, norm_ref, *, row: jax.Array, half: int, options: HeadOptions):
  """Loads both halves [heads, H/2] of a row's heads, and norms and clips them in float32."""
  head_dim, count = 2 * half, x_ref.shape[1] // (2 * half)
  head = jnp.arange(pl.next_power_of_2(count))[:, None]
  columns = [index * half + jnp.arange(half)[None, :] for index in range(2)]
  at = [jnp.minimum(head, count - 1) * head_dim + column for column in columns]
  halves = [plgpu.load(x_ref.at[row, place]).astype(jnp.float32) for place in at]

  def normed(scale_at: list[jax.Array], mean_square: jax.Array) -> list[jax.Array]:
    inverse = jax.lax.rsqrt(mean_square + options.norm_eps)
    scales = (plgpu.load(norm_ref.at[place]).astype(jnp.float32) for place in scale_at)
    return [values * inverse * scale for values, scale in zip(halves, scales, strict=True)]

  normed_over = None if norm_ref is None else options.normed_over
  if normed_over == "projection":
    squares = jnp.where(head < count, halves[0] * halves[0] + halves[1] * halves[1], 0.0)
    halves = normed(at, jnp.sum(jnp.sum(squares, axis=1), axis=0) / (count * head_dim))
  if (clip := options.clip) is not None:
    halves = [jnp.minimum(jnp.maximum(values, -clip), clip) for values in halves]
  if normed_over == "head":
    squares = halves[0] * halves[0] + halves[1] * halves[1]
    halves = normed(columns, (jnp.sum(squares, axis=1) / head_dim)[:, None])
  return halves[0], halves[1]
