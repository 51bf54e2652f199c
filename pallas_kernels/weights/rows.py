"""Rows of a table, such as the tokens' rows of an embedding."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.derivatives import differentiated_as


def take_rows(table: Num[Array, "V D"], ids: Int[Array, "*rows"]) -> Num[Array, "*rows D"]:
  """`table[ids]`, without a float32 copy of a bfloat16 table.

  XLA's CPU compiler widens the whole of a bfloat16 array that a loop indexes (jax 0.10.2).
  """
  if table.dtype != jnp.bfloat16:
    return table[ids]

  def by_bits(table: jax.Array, ids: jax.Array) -> jax.Array:
    # The barrier ties the table's bits to the ids: otherwise XLA moves a copy of the whole table out of the loop.
    table, ids = jax.lax.optimization_barrier((table, ids))
    rows = jax.lax.bitcast_convert_type(table, jnp.uint16)[ids]
    return jax.lax.bitcast_convert_type(rows, jnp.bfloat16)

  def by_copying(table: jax.Array, ids: jax.Array) -> jax.Array:
    flat = jnp.where(ids < 0, ids + table.shape[0], ids).reshape(-1).astype(jnp.int32)
    taken = jax.ShapeDtypeStruct((flat.size, table.shape[1]), table.dtype)
    return cpu_call("take_rows", (taken,), table, flat)[0].reshape(*ids.shape, table.shape[1])

  def take(table: jax.Array, ids: jax.Array) -> jax.Array:
    if unavailable() is not None:
      return by_bits(table, ids)
    return jax.lax.platform_dependent(table, ids, cpu=by_copying, default=by_bits)

  return differentiated_as(take, lambda table, ids: table[ids])(table, ids)
