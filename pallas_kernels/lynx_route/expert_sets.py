"""Sets of experts as masks [E], and the sums over rows that decide who is in them.

Sums are of integers: they come out the same in whatever order a device adds the rows.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from pallas_kernels.dims import Array, ExpertIds, ExpertMask, RowMask
from pallas_kernels.lynx_route.scores import Scores
from pallas_kernels.lynx_route.terms import in_units, total_cost, weighted


def chosen_by_row(ids_TK: ExpertIds, num_experts: int) -> Bool[Array, "T E"]:
  """Which experts each row names, as a mask."""
  return jnp.any(ids_TK[:, :, None] == jnp.arange(num_experts, dtype=jnp.int32)[None, None, :], axis=1)


def union_of_rows(ids_TK: ExpertIds, valid_T: RowMask, num_experts: int) -> ExpertMask:
  """The experts that at least one valid row names."""
  return jnp.any(chosen_by_row(ids_TK, num_experts) & valid_T[:, None], axis=0)


def summed_worth(
  worth_TE: Float32[Array, "T E"], valid_T: RowMask, say_T: Int32[Array, "T"] | None = None
) -> Int32[Array, "E"]:
  """Each expert's worth summed over valid rows by their say, in fixed point with all the bits T rows leave."""
  largest_unit = (2**31 - 1) // max(1, worth_TE.shape[0])
  unit = 1 << (largest_unit.bit_length() - 1)
  fixed_TE = jnp.round(worth_TE * unit).astype(jnp.int32)
  if say_T is not None:
    fixed_TE = weighted(fixed_TE, say_T[:, None])
  return jnp.sum(jnp.where(valid_T[:, None], fixed_TE, 0), axis=0, dtype=jnp.int32)


def places(values_E: Int32[Array, "E"], cost_E: Int32[Array, "E"] | None = None) -> Int32[Array, "E"]:
  """The place of each expert by descending value, or value per cost; ties go to larger value, then to lower index."""
  index_E = jnp.arange(values_E.shape[0], dtype=jnp.int32)
  ahead_EE = (values_E[:, None] > values_E[None, :]) | (
    (values_E[:, None] == values_E[None, :]) & (index_E[:, None] < index_E[None, :])
  )
  if cost_E is not None:
    per_cost_E = values_E.astype(jnp.float32) / cost_E.astype(jnp.float32)
    more_EE = per_cost_E[:, None] > per_cost_E[None, :]
    ahead_EE = more_EE | (ahead_EE & (per_cost_E[:, None] == per_cost_E[None, :]))
  return jnp.sum(ahead_EE, axis=0, dtype=jnp.int32)


def largest(values_E: Int32[Array, "E"], size: int | Int32[Array, ""]) -> ExpertMask:
  """The `size` experts of largest value, ties to the lowest index; `size` may be traced."""
  return places(values_E) < size


def grow(keep_E: ExpertMask, size: int, scores: Scores) -> ExpertMask:
  """`keep_E`, with experts added by descending summed worth, per cost, until it holds `size`."""
  summed_E = summed_worth(scores.worth, scores.valid, scores.terms.say)
  newcomers_E = jnp.where(keep_E, -1, summed_E)
  return keep_E | (places(newcomers_E, scores.terms.cost) < size - jnp.sum(keep_E, dtype=jnp.int32))


def fill(keep_E: ExpertMask, size: int, values_E: Int32[Array, "E"], scores: Scores) -> ExpertMask:
  """`keep_E`, with experts added by descending value, per cost, while all together cost no more than `size` experts.

  Experts that are free do not count, and are not added. The first one that does not fit ends the filling.
  """
  _, cost_E, free_E = scores.terms
  paid_E, closed_E = keep_E, keep_E
  if free_E is not None:
    paid_E, closed_E = keep_E & ~free_E, keep_E | free_E
  place_E = places(jnp.where(closed_E, -1, values_E), cost_E)
  room = in_units(size, scores.num_experts, cost_E) - total_cost(paid_E, cost_E)
  if cost_E is None:
    fits_E = place_E < room
  else:
    upto_EE = place_E[:, None] <= place_E[None, :]
    fits_E = jnp.sum(jnp.where(upto_EE, cost_E[:, None], 0), axis=0, dtype=jnp.int32) <= room
  return keep_E | (fits_E & ~closed_E)
