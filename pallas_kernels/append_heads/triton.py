"""One program for a row's queries, one for its keys, one for its values; the caches are written in place."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.gpu.pallas_call import call


def objection(
  query, key, value, cache_key, cache_value, positions, cos, sin, query_norm, key_norm, *, norm_eps, clip
) -> str | None:
  """Why the kernel cannot take these arguments, or None."""
  head_dim = cache_key.shape[3]
  if head_dim < 4 or head_dim & (head_dim - 1):
    return f"it takes heads of a power of two wide, not {head_dim}"
  if query.shape[1] > 16384:
    return f"it takes queries of at most 16384 values, not {query.shape[1]}"
  return None


def append_heads_triton(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cache_key: jax.Array,
  cache_value: jax.Array,
  positions: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`append_heads` in one launch."""
  rows, head_dim = query.shape[0], cache_key.shape[3]
  inputs = {"cache_key": cache_key, "cache_value": cache_value, "query": query, "key": key, "value": value}
  inputs |= {"positions": positions, "cos": cos, "sin": sin, "query_norm": query_norm, "key_norm": key_norm}
  given = {name: array for name, array in inputs.items() if array is not None}
  return tuple(
    call(
      functools.partial(_kernel, names=tuple(given), norm_eps=norm_eps, clip=clip),
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


def _kernel(*refs, names: tuple[str, ...], norm_eps: float, clip: float | None):
  given, (query_out, key_out, value_out) = dict(zip(names, refs, strict=False)), refs[len(names) :]
  row, part = pl.program_id(0), pl.program_id(1)
  position = given["positions"][row]
  half = given["cos"].shape[1]
  cos, sin = (plgpu.load(given[name].at[row, jnp.arange(half)])[None, :] for name in ("cos", "sin"))
  heads = functools.partial(_heads, row=row, half=half, norm_eps=norm_eps, clip=clip)

  def turned(x_ref, norm_ref) -> tuple[jax.Array, jax.Array]:
    first, second = heads(x_ref, norm_ref)
    return first * cos - second * sin, second * cos + first * sin

  def write(cache_ref, halves: tuple[jax.Array, jax.Array]) -> None:
    for index, values in enumerate(halves):
      head = jnp.arange(values.shape[0])[:, None]
      mask = (head < cache_ref.shape[1]) & (position < cache_ref.shape[2])
      at = cache_ref.at[row, head, position, (index * half + jnp.arange(half))[None, :]]
      plgpu.store(at, values.astype(cache_ref.dtype), mask=jnp.broadcast_to(mask, values.shape))

  @pl.when(part == 0)
  def write_query():
    for index, values in enumerate(turned(given["query"], given.get("query_norm"))):
      head = jnp.arange(values.shape[0])[:, None]
      at = query_out.at[row, head, (index * half + jnp.arange(half))[None, :]]
      mask = jnp.broadcast_to(head < query_out.shape[1], values.shape)
      plgpu.store(at, values.astype(query_out.dtype), mask=mask)

  @pl.when(part == 1)
  def write_key():
    write(key_out, turned(given["key"], given.get("key_norm")))

  @pl.when(part == 2)
  def write_value():
    write(value_out, heads(given["value"], None))


def _heads(x_ref, norm_ref, *, row: jax.Array, half: int, norm_eps: float, clip: float | None):
  """Both halves [heads, H/2] of a row's heads, normed and clipped, in float32."""
  head_dim, count = 2 * half, x_ref.shape[1] // (2 * half)
  head = jnp.arange(pl.next_power_of_2(count))[:, None]
  columns = [index * half + jnp.arange(half)[None, :] for index in range(2)]
  at = [jnp.minimum(head, count - 1) * head_dim + column for column in columns]
  halves = [plgpu.load(x_ref.at[row, place]).astype(jnp.float32) for place in at]

  def normed(scale_at: list[jax.Array], mean_square: jax.Array) -> list[jax.Array]:
    inverse = jax.lax.rsqrt(mean_square + norm_eps)
    scales = (plgpu.load(norm_ref.at[place]).astype(jnp.float32) for place in scale_at)
    return [values * inverse * scale for values, scale in zip(halves, scales, strict=True)]

  by_head = norm_ref is not None and norm_ref.shape[0] == head_dim
  if norm_ref is not None and not by_head:
    squares = jnp.where(head < count, halves[0] * halves[0] + halves[1] * halves[1], 0.0)
    halves = normed(at, jnp.sum(jnp.sum(squares, axis=1), axis=0) / (count * head_dim))
  if clip is not None:
    halves = [jnp.minimum(jnp.maximum(values, -clip), clip) for values in halves]
  if by_head:
    squares = halves[0] * halves[0] + halves[1] * halves[1]
    halves = normed(columns, (jnp.sum(squares, axis=1) / head_dim)[:, None])
  return halves[0], halves[1]
