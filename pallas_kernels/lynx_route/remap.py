"""The op in plain JAX: scores, the policy's keep set, and each row's experts from inside it.

All batch-aware policies share this last step, the remap. Padding and finished rows neither vote nor enlarge the set. A
keep set that is no smaller than what the model's own routing touches gives way to the model's own routing: under a
policy a batch never reads more experts than without one. So a lone row runs unchanged, because no set holds fewer
experts than its own top k.
"""

import jax
import jax.numpy as jnp

from pallas_kernels.dims import ExpertIds, ExpertMask, ExpertWeights, RowMask
from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import tile_rows
from pallas_kernels.lynx_route.arguments import RouteArrays
from pallas_kernels.lynx_route.expert_sets import grow, union_of_rows
from pallas_kernels.lynx_route.mass_floor import within_limit
from pallas_kernels.lynx_route.policy import Routing, RoutingPolicy, TiledRouting
from pallas_kernels.lynx_route.router import Router, log_gates, own_weights, sparse_mixer
from pallas_kernels.lynx_route.scores import LOWEST, Scores, score_rows
from pallas_kernels.lynx_route.terms import Terms, costs, says, total_cost


def lynx_route_reference(
  arrays: RouteArrays, *, top_k: int, policy: RoutingPolicy, router: Router, tiles: bool
) -> TiledRouting:
  """`lynx_route` in plain JAX, for any policy on any platform."""
  logits, valid = arrays.logits, arrays.valid
  scores = score_rows(logits, top_k, policy.experts_per_token(top_k), valid, router, arrays.selection_bias)
  if policy.batch_aware or arrays.limit is not None:
    routing = _route_together(arrays, _with_terms(scores, arrays), policy, top_k, router)
  else:
    routing = settle(scores, valid, *unrestricted(scores, top_k, router))
  return TiledRouting(*routing, tile_rows(routing.ids, valid, logits.shape[1], DECODE_TILE) if tiles else None)


def _with_terms(scores: Scores, arrays: RouteArrays) -> Scores:
  """`scores` of the rows that have a say, and on what terms."""
  own, weight, cost = arrays.own, arrays.weight, arrays.cost
  voters, say, free = arrays.valid, None, None
  if own is not None:
    voters, free = voters & ~own, union_of_rows(scores.ids, voters & own, scores.num_experts)
  if weight is not None:
    say = says(weight, voters)
    voters = voters & (say > 0)
  return scores._replace(valid=voters, terms=Terms(say, None if cost is None else costs(cost), free))


def _route_together(arrays: RouteArrays, scores: Scores, policy: RoutingPolicy, top_k: int, router: Router) -> Routing:
  """Routing inside the keep set, or the model's own where that costs no more; bit for bit the one or the other.

  Experts that are free join the keep set. A set that is too small for one row is then filled by descending summed
  worth, per cost. Rows that run their own experts do so in any case.
  """
  cost, free = scores.terms.cost, scores.terms.free
  keep = policy.keep_set(scores)
  if free is not None:
    keep = keep | free
  if arrays.limit is not None:
    keep = within_limit(scores, keep, arrays.limit)
  keep = grow(keep, scores.experts_per_token, scores)
  own_ids_TK, own_weights_TK = unrestricted(scores, top_k, router)
  own_active = union_of_rows(own_ids_TK, arrays.valid, scores.num_experts)
  use_own = total_cost(keep, cost) >= total_cost(own_active, cost)
  if arrays.own is not None:
    use_own = use_own | arrays.own[:, None]
  ids_TK, weights_TK = remap(scores, keep, router)
  ids_TK, weights_TK = jnp.where(use_own, own_ids_TK, ids_TK), jnp.where(use_own, own_weights_TK, weights_TK)
  return settle(scores, arrays.valid, ids_TK, weights_TK)


def unrestricted(scores: Scores, top_k: int, router: Router) -> tuple[ExpertIds, ExpertWeights]:
  """Ids and weights [T, K] when every expert is kept: with K = `top_k`, what the model itself does.

  A row that runs fewer experts than `top_k` still carries the whole weight of its own top k.
  """
  if scores.experts_per_token == top_k:
    return scores.ids, own_weights(scores.router_logits, scores.ids, router)
  return scores.ids, substitute_weights(scores, scores.ids, router, None)


def remap(scores: Scores, keep: ExpertMask, router: Router) -> tuple[ExpertIds, ExpertWeights]:
  """Ids and weights [T, K] of each row's best experts inside `keep` (at least K experts), in the model's own order."""
  ids_TK = best_experts(scores, router, keep)
  return ids_TK, substitute_weights(scores, ids_TK, router, keep)


def best_experts(scores: Scores, router: Router, keep: ExpertMask) -> ExpertIds:
  """Each row's experts [T, K] inside `keep`, in the model's own order.

  Experts of groups that the row may not use come after all others, in the same order, and only fill a row.
  """
  kept_TE = jnp.where(keep[None, :], scores.choice, -jnp.inf)
  if router.groups == 1:
    return jax.lax.top_k(kept_TE, scores.experts_per_token)[1]
  allowed_TE = scores.logits > LOWEST
  _, inside_TK = jax.lax.top_k(jnp.where(allowed_TE, kept_TE, -jnp.inf), scores.experts_per_token)
  _, outside_TK = jax.lax.top_k(jnp.where(allowed_TE, -jnp.inf, kept_TE), scores.experts_per_token)
  found_T = jnp.sum(allowed_TE & keep[None, :], axis=1, dtype=jnp.int32)
  place_TK = jnp.arange(scores.experts_per_token, dtype=jnp.int32)[None, :] - found_T[:, None]
  fill_TK = jnp.take_along_axis(outside_TK, jnp.maximum(place_TK, 0), axis=1)
  return jnp.where(place_TK < 0, inside_TK, fill_TK)


def substitute_weights(scores: Scores, ids_TK: ExpertIds, router: Router, keep: ExpertMask | None) -> ExpertWeights:
  """Weights of experts that stand in for the model's own: its rule inside `keep`, with the row's own total.

  The weights are in proportion to the gates. Their sum is the total that the model gave the token: 1, or the gates of
  its own top k (arXiv 2411.08982), times the router's scale. So the substitute of a sigmoid router's only expert gets
  that expert's weight.
  """
  if router.unit_weights:
    return jnp.ones(ids_TK.shape, jnp.float32)
  if router.scoring == "sparsemixer":
    weights_TK = sparse_mixer(scores.router_logits, ids_TK, keep)
    shares_TK = weights_TK / jnp.sum(weights_TK, axis=-1, keepdims=True)
  else:
    log_gates_TE = log_gates(scores.router_logits, router)
    shares_TK = jax.nn.softmax(jnp.take_along_axis(log_gates_TE, ids_TK, axis=-1), axis=-1)
  return shares_TK * scores.total[:, None]


def settle(scores: Scores, valid: RowMask, ids: ExpertIds, weights: ExpertWeights) -> Routing:
  """Builds a `Routing`. Invalid rows get weight 0 and the ids of experts that other rows already read."""
  active = union_of_rows(ids, valid, scores.num_experts)
  _, idle_ids_K = jax.lax.top_k(active.astype(jnp.float32), scores.experts_per_token)
  return Routing(
    ids=jnp.where(valid[:, None], ids, idle_ids_K[None, :]),
    weights=jnp.where(valid[:, None], weights, 0.0),
    active=active,
  )
