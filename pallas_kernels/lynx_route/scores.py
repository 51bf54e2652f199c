"""What a policy sees of a batch: the rows' logits and what experts are worth to them, whatever the router."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from pallas_kernels.dims import Array, ExpertIds, RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route.router import Router, in_best_groups, log_gates, total_weight
from pallas_kernels.lynx_route.terms import Terms

# Lower bound of a logit, so that the difference of any two logits is finite.
LOWEST = -float(np.finfo(np.float32).max) / 2
# Bounds of a gate whose logit is taken.
SMALLEST_GATE = float(np.finfo(np.float32).tiny)
LARGEST_GATE = 1.0 - 2.0**-24


class Scores(NamedTuple):
  """What a policy sees of a batch: float32, finite, and free of whatever invalid rows held.

  Attributes:
    logits: [T, E], how far apart a row's experts lie, in nats, in the order in which the model prefers them. Without a
      selection bias these are the router's logits. With one they are the logits that the experts would need for the
      same order if all of them had the bias of the row's first expert. `LOWEST` or less: the row may not choose the
      expert.
    worth: [T, E], each expert's gate divided by the sum of all gates of the row; 0 if the row may not choose the
      expert. With a selection bias, an expert outside the row's own top k is worth at most the smallest gate of any
      expert that the model prefers to it.
    ids: [T, K], the experts that each row runs when every expert is kept; K is what
      `RoutingPolicy.experts_per_token` says.
    own_mass: [T], the sum of `worth` over the model's own top k, also where a row runs fewer experts.
    valid: [T], the rows that have a say: no other row may influence a keep set.
    router_logits: [T, E], the logits that weights are computed from, infinities clipped to large finite values.
    choice: [T, E], the numbers that a row's experts are chosen by: the router's logits, or its gates plus the selection
      bias.
    total: [T], the sum of the weights that the model gives the row's own top k.
    terms: the say of rows and the cost of experts where they differ, and experts that are read anyway.
  """

  logits: Float32[Array, "T E"]
  worth: Float32[Array, "T E"]
  ids: ExpertIds
  own_mass: Float32[Array, "T"]
  valid: RowMask
  router_logits: Float32[Array, "T E"]
  choice: Float32[Array, "T E"]
  total: Float32[Array, "T"]
  terms: Terms = Terms()

  @property
  def num_experts(self) -> int:
    """E."""
    return self.logits.shape[1]

  @property
  def experts_per_token(self) -> int:
    """K: how many experts each row runs."""
    return self.ids.shape[1]


def score_rows(
  logits: RouterLogits,
  top_k: int,
  experts_per_token: int,
  valid: RowMask,
  router: Router,
  selection_bias: SelectionBias | None = None,
) -> Scores:
  """The `Scores` of router logits [T, E] of any float dtype.

  A logit of -inf is clipped to a finite value. So a masked expert ranks last, but above the experts outside a keep set,
  which the remap puts at -inf. A valid row must not hold NaN.
  """
  clipped_TE = jnp.clip(logits.astype(jnp.float32), LOWEST, -LOWEST)
  # -0.0 becomes 0.0 as well: XLA for CPUs ranks them apart, and a tie must go to the lowest index everywhere.
  logits_TE = jnp.where(valid[:, None] & (clipped_TE != 0.0), clipped_TE, 0.0)
  choice_TE = affinity_TE = logits_TE
  if selection_bias is not None:
    choice_TE = jax.nn.sigmoid(logits_TE) + selection_bias[None, :]
  open_TE = choice_TE
  if router.groups > 1:
    allowed_TE = in_best_groups(logits_TE, choice_TE, router, biased=selection_bias is not None)
    open_TE = jnp.where(allowed_TE, choice_TE, -jnp.inf)
    affinity_TE = jnp.where(allowed_TE, logits_TE, LOWEST)
  if selection_bias is not None:
    affinity_TE = unbiased_logits(open_TE, selection_bias)
  # Behind a barrier: XLA for CPUs merges top_k with a slice of its result into a full sort, 15 times slower.
  ids_TK = jax.lax.optimization_barrier(jax.lax.top_k(open_TE, top_k)[1])
  worth_TE = jax.nn.softmax(log_gates(logits_TE, router), axis=-1)
  if router.groups > 1:
    worth_TE = jnp.where(open_TE == -jnp.inf, 0.0, worth_TE)
  if selection_bias is not None:
    worth_TE = capped_by_preferred(worth_TE, open_TE, top_k)
  return Scores(
    logits=affinity_TE,
    worth=worth_TE,
    ids=ids_TK[:, :experts_per_token],
    own_mass=jnp.sum(jnp.take_along_axis(worth_TE, ids_TK, axis=-1), axis=-1),
    valid=valid,
    router_logits=logits_TE,
    choice=choice_TE,
    total=total_weight(logits_TE, ids_TK, router),
  )


def unbiased_logits(open_TE: Float32[Array, "T E"], selection_bias: SelectionBias) -> Float32[Array, "T E"]:
  """Logits of the gates that would give the same order if every expert had the bias of the row's first expert.

  They equal the router's logits where all biases are the same, and do not change when a constant is added to every
  bias. An expert whose gate would be zero or less lies as low as a gate can; one that the row may not choose (-inf in
  `open_TE`) lies at `LOWEST`.
  """
  first_T = jnp.argmax(open_TE, axis=-1)
  gates_TE = open_TE - selection_bias[first_T][:, None]
  inside_TE = jnp.clip(gates_TE, SMALLEST_GATE, LARGEST_GATE)
  return jnp.where(open_TE == -jnp.inf, LOWEST, jnp.log(inside_TE) - jnp.log1p(-inside_TE))


def capped_by_preferred(
  worth_TE: Float32[Array, "T E"], choice_TE: Float32[Array, "T E"], top_k: int
) -> Float32[Array, "T E"]:
  """`worth`, where no expert outside the own `top_k` is worth more than an expert that the row prefers to it."""
  index_TE = jax.lax.broadcasted_iota(jnp.int32, worth_TE.shape, 1)
  _, ranked_TE, index_ranked_TE = jax.lax.sort((-choice_TE, worth_TE, index_TE), dimension=1, num_keys=1)
  capped_TE = jnp.where(index_TE < top_k, ranked_TE, jax.lax.cummin(ranked_TE, axis=1))
  return jax.lax.sort((index_ranked_TE, capped_TE), dimension=1, num_keys=1)[1]
