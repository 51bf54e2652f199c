"""What a routing saves and what it costs: experts read, and the gate probability that tokens retain.

Pure functions of one routing step of one layer; a decode loop adds them up over layers and steps.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Float32, Int32

from lynx_jax.dims import Array, RouterLogits, RowMask
from lynx_jax.routing.base import Routing
from lynx_jax.routing.expert_sets import union_of_rows
from lynx_jax.routing.routers import score_rows


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


def routing_stats(logits: RouterLogits, top_k: int, routing: Routing, valid: RowMask | None = None) -> RoutingStats:
  """What `routing`, made from `logits`, reads and retains, beside the model's own routing."""
  mean, worst = summarize_retained(retained_mass(logits, top_k, routing, valid), valid)
  return RoutingStats(own_experts(logits, top_k, valid), active_experts(routing), mean, worst)


def own_experts(logits: RouterLogits, top_k: int, valid: RowMask | None = None) -> Int32[Array, ""]:
  """How many distinct experts the model's own top k of the valid rows touches."""
  valid = jnp.ones(logits.shape[0], bool) if valid is None else valid
  scores = score_rows(logits, top_k, top_k, valid)
  return jnp.sum(union_of_rows(scores.ids, valid, scores.num_experts), dtype=jnp.int32)


def active_experts(routing: Routing) -> Int32[Array, ""]:
  """How many distinct experts the valid rows of `routing` run."""
  return jnp.sum(routing.active, dtype=jnp.int32)


def retained_mass(
  logits: RouterLogits, top_k: int, routing: Routing, valid: RowMask | None = None
) -> Float32[Array, "T"]:
  """Each row's gate probability on the experts that it runs, over that of its own top k.

  1 when unchanged, and on invalid rows; substitutes count with their original probability. The one measure of
  quality that needs no second forward pass.
  """
  valid = jnp.ones(logits.shape[0], bool) if valid is None else valid
  scores = score_rows(logits, top_k, top_k, valid)
  mass_T = jnp.sum(jnp.take_along_axis(scores.probs, routing.ids, axis=-1), axis=-1)
  return jnp.where(valid, mass_T / scores.own_mass, 1.0)


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
