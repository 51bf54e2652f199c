"""The model's own routing rule, and the policy that leaves it alone."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from lynx_jax.dims import ExpertIds, ExpertMask, ExpertWeights, RouterLogits, RowMask
from lynx_jax.routing.base import Router, RoutingPolicy, Scores


def score_rows(logits: RouterLogits, top_k: int, experts_per_token: int, valid: RowMask) -> Scores:
  """Logits [T, E] of any float dtype as float32 `Scores`.

  An expert masked by -inf is clipped, and so ranks last but above those outside a keep set, which remapping
  puts at -inf. A valid row must not hold NaN.
  """
  bound = float(jnp.finfo(jnp.float32).max) / 2  # so that the difference of any two logits is finite
  clipped_TE = jnp.clip(logits.astype(jnp.float32), -bound, bound)
  # -0.0 becomes 0.0 as well: XLA for CPUs ranks them apart, and a tie must go to the lowest index everywhere.
  logits_TE = jnp.where(valid[:, None] & (clipped_TE != 0.0), clipped_TE, 0.0)
  probs_TE = jax.nn.softmax(logits_TE, axis=-1)
  # Behind a barrier: XLA for CPUs merges top_k with a slice of its result into a full sort, 15 times slower.
  ids_TK = jax.lax.optimization_barrier(jax.lax.top_k(logits_TE, top_k)[1])
  own_mass_T = jnp.sum(jnp.take_along_axis(probs_TE, ids_TK, axis=-1), axis=-1)
  return Scores(logits_TE, probs_TE, ids_TK[:, :experts_per_token], own_mass_T, valid)


def unrestricted(scores: Scores, top_k: int, router: Router) -> tuple[ExpertIds, ExpertWeights]:
  """Ids and weights [T, K] when every expert is kept: with K = `top_k`, what the model itself does.

  A row that runs fewer experts than `top_k` still carries the whole weight of its own top k.
  """
  gates_TK = jnp.take_along_axis(scores.probs, scores.ids, axis=-1)
  if router.renormalize:
    return scores.ids, gates_TK / jnp.sum(gates_TK, axis=-1, keepdims=True)
  if scores.experts_per_token == top_k:
    return scores.ids, gates_TK
  return scores.ids, gates_TK * (scores.own_mass[:, None] / jnp.sum(gates_TK, axis=-1, keepdims=True))


def every_expert(scores: Scores) -> ExpertMask:
  """The keep set that restricts nothing."""
  return jnp.ones(scores.num_experts, bool)


@dataclass(frozen=True, slots=True)
class TopK(RoutingPolicy):
  """The model's own routing, unchanged."""

  batch_aware: ClassVar[bool] = False

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Every expert."""
    return every_expert(scores)
