"""bfloat16 arrays stored as their bits, in uint16.

XLA's CPU compiler widens the whole of a bfloat16 array that a loop indexes (seen on jax 0.10.2: 0.8 GB of temporaries
and five times the time for two layers of experts). A uint16 array is sliced in place; the slice is then read as
bfloat16, which the CPU's matrix product takes natively.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.dispatch import differentiated_as


def stored_experts(weights: Num[np.ndarray, "*shape"], platform: str) -> Num[np.ndarray, "*shape"]:
  """The form in which `platform` reads expert weights fastest: bfloat16 as its bits on the CPU; never a copy."""
  return weights.view(np.uint16) if platform == "cpu" and weights.dtype == jnp.bfloat16 else weights


def from_bits(weights: Num[Array, "*shape"]) -> Num[Array, "*shape"]:
  """Reads uint16 as bfloat16; any other dtype passes through."""
  return jax.lax.bitcast_convert_type(weights, jnp.bfloat16) if weights.dtype == jnp.uint16 else weights


def take_rows(table: Num[Array, "V D"], ids: Int[Array, "*rows"]) -> Num[Array, "*rows D"]:
  """`table[ids]`, which widens no bfloat16 table where a loop takes rows of it."""
  if table.dtype != jnp.bfloat16:
    return table[ids]

  def by_bits(table: jax.Array, ids: jax.Array) -> jax.Array:
    # Tied to the ids, the table's bits are not what a loop could copy once before it begins.
    table, ids = jax.lax.optimization_barrier((table, ids))
    return from_bits(jax.lax.bitcast_convert_type(table, jnp.uint16)[ids])

  def by_copying(table: jax.Array, ids: jax.Array) -> jax.Array:
    flat = jnp.where(ids < 0, ids + table.shape[0], ids).reshape(-1).astype(jnp.int32)
    taken = jax.ShapeDtypeStruct((flat.size, table.shape[1]), table.dtype)
    return cpu_call("take_rows", (taken,), table, flat)[0].reshape(*ids.shape, table.shape[1])

  def take(table: jax.Array, ids: jax.Array) -> jax.Array:
    if unavailable() is not None:
      return by_bits(table, ids)
    return jax.lax.platform_dependent(table, ids, cpu=by_copying, default=by_bits)

  return differentiated_as(take, lambda table, ids: table[ids])(table, ids)
