"""The models' own rules: which experts a row chooses, with what weights, and what an expert is worth to it.

The judges are the routers of transformers: Mixtral, Qwen2-MoE, DeepSeek-V2 and -V3, Phi-MoE's `sparsemixer`, Llama-4.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from lynx_jax.routing.base import LOWEST, Router, Scores
from pallas_kernels.dims import Array, ExpertIds, ExpertMask, ExpertWeights, RouterLogits, RowMask, SelectionBias

SPARSEMIXER_EPS = 0.01
_SMALLEST = float(jnp.finfo(jnp.float32).tiny)
_BELOW_ONE = 1.0 - 2.0**-24


def score_rows(
  logits: RouterLogits,
  top_k: int,
  experts_per_token: int,
  valid: RowMask,
  router: Router,
  selection_bias: SelectionBias | None = None,
) -> Scores:
  """Logits [T, E] of any float dtype as float32 `Scores`.

  An expert masked by -inf is clipped, and so ranks last but above those outside a keep set, which remapping
  puts at -inf. A valid row must not hold NaN.
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
  probs_TE = jax.nn.softmax(_log_gates(logits_TE, router), axis=-1)
  if router.groups > 1:
    probs_TE = jnp.where(open_TE == -jnp.inf, 0.0, probs_TE)
  if selection_bias is not None:
    probs_TE = capped_by_preferred(probs_TE, open_TE, top_k)
  return Scores(
    logits=affinity_TE,
    probs=probs_TE,
    ids=ids_TK[:, :experts_per_token],
    own_mass=jnp.sum(jnp.take_along_axis(probs_TE, ids_TK, axis=-1), axis=-1),
    valid=valid,
    router_logits=logits_TE,
    choice=choice_TE,
    total=total_weight(logits_TE, ids_TK, router),
  )


def in_best_groups(
  logits_TE: Float32[Array, "T E"], choice_TE: Float32[Array, "T E"], router: Router, *, biased: bool
) -> Bool[Array, "T E"]:
  """Whether an expert is in one of the row's best groups, ties to the lowest index."""
  rows, experts = choice_TE.shape

  def by_group(scores_TE: Array) -> Array:
    return scores_TE.reshape(rows, router.groups, experts // router.groups)

  if router.group_score == "max":
    score_TG = jnp.max(by_group(choice_TE), axis=-1)
  else:
    gates_TE = choice_TE if biased else _gates(logits_TE, router)
    score_TG = jnp.sum(jax.lax.top_k(by_group(gates_TE), 2)[0], axis=-1)
  _, kept = jax.lax.top_k(score_TG, router.groups_kept)
  kept_TG = jnp.any(kept[:, :, None] == jnp.arange(router.groups)[None, None, :], axis=1)
  return jnp.repeat(kept_TG, experts // router.groups, axis=1)


def unbiased_logits(open_TE: Float32[Array, "T E"], selection_bias: SelectionBias) -> Float32[Array, "T E"]:
  """Sigmoid gates plus bias as the logits of gates that all have the bias of the row's first expert.

  In the order of the choice, equal to the router's logits where the bias is the same for all, and unchanged by what is
  added to every bias. An expert that this leaves no gate above zero lies as low as a gate can; one that the row may not
  choose, -inf here, at `LOWEST`.
  """
  first_T = jnp.argmax(open_TE, axis=-1)
  gates_TE = open_TE - selection_bias[first_T][:, None]
  inside_TE = jnp.clip(gates_TE, _SMALLEST, _BELOW_ONE)
  return jnp.where(open_TE == -jnp.inf, LOWEST, jnp.log(inside_TE) - jnp.log1p(-inside_TE))


def capped_by_preferred(
  probs_TE: Float32[Array, "T E"], choice_TE: Float32[Array, "T E"], top_k: int
) -> Float32[Array, "T E"]:
  """Worths of which none but the own `top_k`'s exceeds that of an expert that the row prefers."""
  index_TE = jax.lax.broadcasted_iota(jnp.int32, probs_TE.shape, 1)
  _, probs_ranked_TE, index_ranked_TE = jax.lax.sort((-choice_TE, probs_TE, index_TE), dimension=1, num_keys=1)
  capped_TE = jnp.where(index_TE < top_k, probs_ranked_TE, jax.lax.cummin(probs_ranked_TE, axis=1))
  return jax.lax.sort((index_ranked_TE, capped_TE), dimension=1, num_keys=1)[1]


def best_experts(scores: Scores, router: Router, keep: ExpertMask) -> ExpertIds:
  """Each row's experts [T, K] inside `keep`, in the model's own order.

  Experts of groups that the row may not use come last, by the same order, and only fill a row.
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


def own_weights(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, router: Router) -> ExpertWeights:
  """The weights of the experts that the model itself chose."""
  if router.unit_weights:
    return jnp.ones(ids_TK.shape, jnp.float32)
  if router.scoring == "sparsemixer":
    weights_TK = sparse_mixer(logits_TE, ids_TK)
  else:
    weights_TK = jnp.take_along_axis(_gates(logits_TE, router), ids_TK, axis=-1)
  if router.renormalize:
    sum_T1 = jnp.sum(weights_TK, axis=-1, keepdims=True)
    # Sigmoids may all vanish; DeepSeek-V3's own guard.
    weights_TK = weights_TK / (sum_T1 + 1e-20 if router.scoring == "sigmoid" else sum_T1)
  return weights_TK if router.scale == 1 else weights_TK * router.scale


def total_weight(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, router: Router) -> Float32[Array, "T"]:
  """What the model's own weights of a row add up to; exact where they are softmax gates divided by their sum."""
  if router.scoring == "softmax" and router.renormalize and not router.unit_weights:
    return jnp.full(ids_TK.shape[:1], router.scale, jnp.float32)
  return jnp.sum(own_weights(logits_TE, ids_TK, router), axis=-1)


def substitute_weights(scores: Scores, ids_TK: ExpertIds, router: Router, keep: ExpertMask | None) -> ExpertWeights:
  """Weights of experts that stand in for the model's own: its rule inside `keep`, with the row's own total."""
  if router.unit_weights:
    return jnp.ones(ids_TK.shape, jnp.float32)
  if router.scoring == "sparsemixer":
    weights_TK = sparse_mixer(scores.router_logits, ids_TK, keep)
    shares_TK = weights_TK / jnp.sum(weights_TK, axis=-1, keepdims=True)
  else:
    log_gates_TE = _log_gates(scores.router_logits, router)
    shares_TK = jax.nn.softmax(jnp.take_along_axis(log_gates_TE, ids_TK, axis=-1), axis=-1)
  return shares_TK * scores.total[:, None]


def sparse_mixer(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, keep: ExpertMask | None = None) -> ExpertWeights:
  """Each expert's softmax among those of `keep` that are not chosen before it and close to it (arXiv 2409.12136)."""
  top_TK1 = jnp.take_along_axis(logits_TE, ids_TK, axis=-1)[:, :, None]
  logits_T1E = logits_TE[:, None, :]
  chosen_TKE = ids_TK[:, :, None] == jnp.arange(logits_TE.shape[1], dtype=jnp.int32)[None, None, :]
  before_TKE = (jnp.cumsum(chosen_TKE, axis=1, dtype=jnp.int32) > 0) & ~chosen_TKE
  size_TKE = jnp.maximum(jnp.abs(logits_T1E), top_TK1)
  far_TKE = (top_TK1 - logits_T1E) / jnp.where(size_TKE > 0, size_TKE, 1.0) > 2 * SPARSEMIXER_EPS
  among_TKE = ~(before_TKE | far_TKE) if keep is None else ~(before_TKE | far_TKE) & keep[None, None, :]
  return 1.0 / jnp.sum(jnp.exp(jnp.where(among_TKE, logits_T1E - top_TK1, -jnp.inf)), axis=-1)


def unrestricted(scores: Scores, top_k: int, router: Router) -> tuple[ExpertIds, ExpertWeights]:
  """Ids and weights [T, K] when every expert is kept: with K = `top_k`, what the model itself does.

  A row that runs fewer experts than `top_k` still carries the whole weight of its own top k.
  """
  if scores.experts_per_token == top_k:
    return scores.ids, own_weights(scores.router_logits, scores.ids, router)
  return scores.ids, substitute_weights(scores, scores.ids, router, None)


def _gates(logits_TE: Float32[Array, "T E"], router: Router) -> Float32[Array, "T E"]:
  return jax.nn.sigmoid(logits_TE) if router.scoring == "sigmoid" else jax.nn.softmax(logits_TE, axis=-1)


def _log_gates(logits_TE: Float32[Array, "T E"], router: Router) -> Float32[Array, "T E"]:
  """The logarithms of the gates, up to a constant of each row."""
  return jax.nn.log_sigmoid(logits_TE) if router.scoring == "sigmoid" else logits_TE
