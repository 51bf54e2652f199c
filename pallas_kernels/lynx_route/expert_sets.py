"""Sets of experts as masks [E], and the sums over rows that decide who is in them.

Sums are of integers: they come out the same in whatever order a device adds the rows.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from pallas_kernels.dims import Array, ExpertIds, ExpertMask, RowMask


def chosen_by_row(ids_TK: ExpertIds, num_experts: int) -> Bool[Array, "T E"]:
  """Which experts each row names, as a mask."""
  return jnp.any(ids_TK[:, :, None] == jnp.arange(num_experts, dtype=jnp.int32)[None, None, :], axis=1)


def union_of_rows(ids_TK: ExpertIds, valid_T: RowMask, num_experts: int) -> ExpertMask:
  """The experts that at least one valid row names."""
  return jnp.any(chosen_by_row(ids_TK, num_experts) & valid_T[:, None], axis=0)


def summed_worth(worth_TE: Float32[Array, "T E"], valid_T: RowMask) -> Int32[Array, "E"]:
  """Each expert's worth summed over valid rows, in fixed point with all the bits T rows leave."""
  largest_unit = (2**31 - 1) // max(1, worth_TE.shape[0])
  unit = 1 << (largest_unit.bit_length() - 1)
  fixed_TE = jnp.round(worth_TE * unit).astype(jnp.int32)
  return jnp.sum(jnp.where(valid_T[:, None], fixed_TE, 0), axis=0, dtype=jnp.int32)


def largest(values_E: Int32[Array, "E"], size: int | Int32[Array, ""]) -> ExpertMask:
  """The `size` experts of largest value, ties to the lowest index; `size` may be traced."""
  index_E = jnp.arange(values_E.shape[0], dtype=jnp.int32)
  ahead_EE = (values_E[:, None] > values_E[None, :]) | (
    (values_E[:, None] == values_E[None, :]) & (index_E[:, None] < index_E[None, :])
  )
  return jnp.sum(ahead_EE, axis=0, dtype=jnp.int32) < size


def grow(keep_E: ExpertMask, size: int, worth_TE: Float32[Array, "T E"], valid_T: RowMask) -> ExpertMask:
  """`keep_E`, with experts added by descending summed worth until it holds `size`."""
  newcomers_E = jnp.where(keep_E, -1, summed_worth(worth_TE, valid_T))
  return keep_E | largest(newcomers_E, size - jnp.sum(keep_E, dtype=jnp.int32))
