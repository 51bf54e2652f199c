"""What a routing saves and what it costs: the experts that it reads, and the worth that tokens retain."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32

from pallas_kernels.dims import Array, RouterLogits, RowMask, SelectionBias
from pallas_kernels.lynx_route import Router, Routing, score_rows
from pallas_kernels.lynx_route.expert_sets import union_of_rows

_RENORMALIZING_SOFTMAX = Router()


class RoutingStats(NamedTuple):
  """Figures of one routing step of one layer; a decode loop adds them up over layers and steps.

  Attributes:
    own_experts: int32, distinct experts that the model's own routing would read.
    experts: int32, distinct experts that this routing reads.
    retained: float32 [T], the worth of the experts that each row runs (`Scores.worth`) over the worth of its own top k.
      1 where the routing is unchanged, and on invalid rows. Substitutes count with their original gates; experts
      without weight and experts of groups that the row may not use count nothing. It is the one measure of quality that
      needs no second forward pass.
  """

  own_experts: Int32[Array, ""]
  experts: Int32[Array, ""]
  retained: Float32[Array, "T"]


@functools.partial(jax.jit, static_argnames=("top_k", "router"))
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
  valid = jnp.ones(logits.shape[0], bool) if valid is None else valid
  scores = score_rows(logits, top_k, top_k, valid, router, selection_bias)
  worth_TK = jnp.take_along_axis(scores.worth, routing.ids, axis=-1)
  mass_T = jnp.sum(jnp.where(routing.weights > 0, worth_TK, 0.0), axis=-1)
  return RoutingStats(
    own_experts=jnp.sum(union_of_rows(scores.ids, valid, scores.num_experts), dtype=jnp.int32),
    experts=jnp.sum(routing.active, dtype=jnp.int32),
    retained=jnp.where(valid, mass_T / scores.own_mass, 1.0),
  )
