"""The last step that all batch-aware policies share: take each row's experts from inside the keep set.

Whatever the policy, padding and finished rows neither vote nor enlarge the set, and a set that is no smaller
than what the model's own routing touches gives way to that routing: a policy may never read more experts than
no policy. A lone row is such a case, as its own top k are no more than any set holds, and it runs unchanged.
"""

import jax
import jax.numpy as jnp

from lynx_jax.routing.base import Router, Routing, Scores
from lynx_jax.routing.expert_sets import grow, union_of_rows
from lynx_jax.routing.routers import best_experts, substitute_weights, unrestricted
from pallas_kernels.dims import ExpertIds, ExpertMask, ExpertWeights


def remap(scores: Scores, keep: ExpertMask, router: Router) -> tuple[ExpertIds, ExpertWeights]:
  """Ids and weights [T, K] of each row's best experts inside `keep` (at least K experts), in the model's own order.

  The weights are in proportion to the gates, with the total that the model gave the token: 1, or the gates of its
  own top k (arXiv 2411.08982), times the router's scale. So one sigmoid expert's substitute gets that one's weight.
  """
  ids_TK = best_experts(scores, router, keep)
  return ids_TK, substitute_weights(scores, ids_TK, router, keep)


def route_within(scores: Scores, keep: ExpertMask, top_k: int, router: Router) -> Routing:
  """Routing inside `keep`, or the model's own where that touches no more; bit for bit the one or the other.

  A keep set too small for one row is first filled by descending summed gate probability.
  """
  keep = grow(keep, scores.experts_per_token, scores.probs, scores.valid)
  own_ids_TK, own_weights_TK = unrestricted(scores, top_k, router)
  own_active = union_of_rows(own_ids_TK, scores.valid, scores.num_experts)
  use_own = jnp.sum(keep) >= jnp.sum(own_active)
  ids_TK, weights_TK = remap(scores, keep, router)
  return settle(scores, jnp.where(use_own, own_ids_TK, ids_TK), jnp.where(use_own, own_weights_TK, weights_TK))


def settle(scores: Scores, ids: ExpertIds, weights: ExpertWeights) -> Routing:
  """A `Routing` whose invalid rows weigh nothing and point at experts that are read anyway."""
  active = union_of_rows(ids, scores.valid, scores.num_experts)
  _, idle_ids_K = jax.lax.top_k(active.astype(jnp.float32), scores.experts_per_token)
  return Routing(
    ids=jnp.where(scores.valid[:, None], ids, idle_ids_K[None, :]),
    weights=jnp.where(scores.valid[:, None], weights, 0.0),
    active=active,
  )
