"""What a routing saves and what it costs: experts read, and the gate probability that tokens retain.

Pure functions of one routing step of one layer; a decode loop adds them up over layers and steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float32, Int32

from lynx_jax.routing.base import Router, Routing, Scores
from lynx_jax.routing.expert_sets import union_of_rows
from lynx_jax.routing.routers import score_rows
from pallas_kernels.dims import Array, RouterLogits, RowMask, SelectionBias

_RENORMALIZING_SOFTMAX = Router()


class RoutingStats(NamedTuple):
  """One routing step in four scalars.

  Attributes:
    own_experts: int32, distinct experts that the model's own routing would read.
    experts: int32, distinct experts that this routing reads.
    mean_retained: float32, retained mass averaged over valid rows; 1 if there are none.
    worst_retained: float32, the least retained mass of a valid row; 1 if there are none.
  """

  own_experts: Int32[Array, ""]
  experts: Int32[Array, ""]
  mean_retained: Float32[Array, ""]
  worst_retained: Float32[Array, ""]


def routing_stats(
  logits: RouterLogits,
  top_k: int,
  routing: Routing,
  valid: RowMask | None = None,
  *,
  router: Router = _RENORMALIZING_SOFTMAX,
  selection_bias: SelectionBias | None = None,
) -> RoutingStats:
  """What `routing`, made from `logits` by `router`, reads and retains, beside the model's own routing."""
  scores = _scores(logits, top_k, valid, router, selection_bias)
  mean, worst = summarize_retained(_retained(scores, routing), valid)
  return RoutingStats(_own_experts(scores), active_experts(routing), mean, worst)


def own_experts(
  logits: RouterLogits,
  top_k: int,
  valid: RowMask | None = None,
  *,
  router: Router = _RENORMALIZING_SOFTMAX,
  selection_bias: SelectionBias | None = None,
) -> Int32[Array, ""]:
  """How many distinct experts the model's own top k of the valid rows touches."""
  return _own_experts(_scores(logits, top_k, valid, router, selection_bias))


def active_experts(routing: Routing) -> Int32[Array, ""]:
  """How many distinct experts the valid rows of `routing` run."""
  return jnp.sum(routing.active, dtype=jnp.int32)


def retained_mass(
  logits: RouterLogits,
  top_k: int,
  routing: Routing,
  valid: RowMask | None = None,
  *,
  router: Router = _RENORMALIZING_SOFTMAX,
  selection_bias: SelectionBias | None = None,
) -> Float32[Array, "T"]:
  """What the experts that each row runs are worth to it (`Scores.probs`), over what its own top k is worth.

  1 when unchanged, and on invalid rows; substitutes count with their original gate probability, experts without weight
  and experts of groups that the row may not use count nothing. The one measure of quality that needs no second forward
  pass.
  """
  return _retained(_scores(logits, top_k, valid, router, selection_bias), routing)


def summarize_retained(
  retained_T: Float32[Array, "T"], valid: RowMask | None = None
) -> tuple[Float32[Array, ""], Float32[Array, ""]]:
  """Mean and least retained mass over the valid rows; both 1 if there are none."""
  valid = jnp.ones(retained_T.shape[0], bool) if valid is None else valid
  lost_T = jnp.where(valid, 1.0 - retained_T, 0.0)
  rows = jnp.maximum(jnp.sum(valid, dtype=jnp.int32), 1).astype(jnp.float32)
  return 1.0 - jnp.sum(lost_T) / rows, jnp.min(jnp.where(valid, retained_T, 1.0), initial=1.0)


def expert_bytes(experts: Int32[Array, ""], bytes_per_expert: int) -> Float32[Array, ""]:
  """Bytes of expert weights that one layer reads for `experts` of them; float32, as int32 ends at 2 GiB."""
  return experts.astype(jnp.float32) * float(bytes_per_expert)


def _scores(
  logits: RouterLogits, top_k: int, valid: RowMask | None, router: Router, selection_bias: SelectionBias | None
) -> Scores:
  valid = jnp.ones(logits.shape[0], bool) if valid is None else valid
  return score_rows(logits, top_k, top_k, valid, router, selection_bias)


def _own_experts(scores: Scores) -> Int32[Array, ""]:
  return jnp.sum(union_of_rows(scores.ids, scores.valid, scores.num_experts), dtype=jnp.int32)


def _retained(scores: Scores, routing: Routing) -> Float32[Array, "T"]:
  worth_TK = jnp.take_along_axis(scores.probs, routing.ids, axis=-1)
  mass_T = jnp.sum(jnp.where(routing.weights > 0, worth_TK, 0.0), axis=-1)
  return jnp.where(scores.valid, mass_T / scores.own_mass, 1.0)
