"""A keep set without a knob to tune: an expert is read if it is worth a fair share of what experts are worth.

What a batch loses by running other weights w' than the model's own w is, to second order, the squared change
|w - w'|**2 of its rows: over policies and batch sizes the divergence of the next token's distribution is proportional
to it (docs/results). For a row that keeps the experts S and retains the mass r(S) of its own top k, it is close to

    loss(S) = sum of w_e**2 over its own experts outside S  +  (1 - r(S))**2

the weights that are lost, and the mass that goes to others instead. The negative of that is monotone and submodular in
S, so experts are taken greedily by what they save (Nemhauser, Wolsey and Fisher 1978), summed over rows.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from pallas_kernels.checks import number_fields
from pallas_kernels.dims import Array, ExpertMask
from pallas_kernels.lynx_route.expert_sets import chosen_by_row, union_of_rows
from pallas_kernels.lynx_route.policy import RoutingPolicy, named_policy
from pallas_kernels.lynx_route.scores import Scores
from pallas_kernels.lynx_route.terms import best_per_cost, total_cost, weighted


@named_policy("auto")
@dataclass(frozen=True, slots=True)
class Auto(RoutingPolicy):
  """Reads an expert only if it saves the batch at least `share` of what an expert of its own routing saves on average.

  The price of an expert follows from the batch itself: the squared weights of its rows' own experts, over how many
  distinct experts those are. So the same `share` suits any number of experts, experts per token, and rows. Each of the
  L experts left out, of the D that the model's own routing would read, would have saved less than the price; so the
  loss, averaged over rows, is less than share * L / D * mean |w|**2.

  Where experts cost differently, the price is per cost: D and L are then the costs of those experts.

  Attributes:
    share: the price, as a share of the mean worth of an expert. Less keeps more.
  """

  share: float | int = 0.5

  def __post_init__(self) -> None:
    number_fields(self, "share", above=0, most=100, remedy="0.5 is what it was tested with; less keeps more experts")

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Experts by descending saving, until the next one saves less than the price."""
    own = union_of_rows(scores.ids, scores.valid, scores.num_experts)
    return worthwhile(scores, self.share, jnp.maximum(total_cost(own, scores.terms.cost), 1))


class _Kept(NamedTuple):
  """The loop's state: experts taken, each row's k best relative probabilities in them, and whether to go on."""

  taken: ExpertMask
  best: Float32[Array, "T K"]
  more: Bool[Array, ""]


def worthwhile(scores: Scores, share: float, own_cost: Int32[Array, ""]) -> ExpertMask:
  """Take experts greedily while the next saves, per cost, `share` of the batch's squared weights over `own_cost`.

  Savings are rounded to fixed point before they are summed over rows, so that no order of rows changes the set. Experts
  that are free are taken from the start; the price does not depend on them.
  """
  rows, experts = scores.worth.shape
  say, cost, free = scores.terms
  own_TE = chosen_by_row(scores.ids, experts)
  weight_TE = jnp.where(scores.valid[:, None], scores.worth / scores.own_mass[:, None], 0.0)
  squared_TE = jnp.where(own_TE, jnp.square(weight_TE), 0.0)
  # A row saves at most 2, and the sum over rows fits an int32.
  unit = float(1 << (29 - (rows - 1).bit_length()))

  def total(saved: Array) -> Int32[Array, "E"]:
    fixed_TE = jnp.floor(saved * unit + 0.5).astype(jnp.int32)
    return jnp.sum(fixed_TE if say is None else weighted(fixed_TE, say[:, None]), axis=0, dtype=jnp.int32)

  worth = jnp.sum(total(squared_TE), dtype=jnp.float32)
  price = share * worth / own_cost.astype(jnp.float32)

  def take_best(kept: _Kept) -> _Kept:
    worst_T = jnp.min(kept.best, axis=1)
    lost_T = 1.0 - jnp.sum(kept.best, axis=1)
    left_TE = lost_T[:, None] - jnp.maximum(weight_TE - worst_T[:, None], 0.0)
    saved_TE = squared_TE + jnp.square(lost_T)[:, None] - jnp.square(left_TE)
    saved_E = jnp.where(kept.taken, -1, total(jnp.where(scores.valid[:, None], saved_TE, 0.0)))
    expert = best_per_cost(saved_E, cost)
    asked = price if cost is None else price * cost[expert].astype(jnp.float32)
    # A saving of nothing is never worth reading an expert for, however small the price.
    more = (saved_E[expert] > 0) & (saved_E[expert].astype(jnp.float32) >= asked)
    slot_T = jax.lax.argmin(kept.best, 1, jnp.int32)
    replaced_TK = jnp.arange(kept.best.shape[1], dtype=jnp.int32)[None, :] == slot_T[:, None]
    best_TK = jnp.where(replaced_TK, jnp.maximum(worst_T, weight_TE[:, expert])[:, None], kept.best)
    taken_E = kept.taken | (jnp.arange(experts, dtype=jnp.int32) == expert)
    return _Kept(jnp.where(more, taken_E, kept.taken), jnp.where(more, best_TK, kept.best), more)

  start = _Kept(jnp.zeros((experts,), bool), jnp.zeros(scores.ids.shape, jnp.float32), jnp.array(True))
  if free is not None:
    best_TK, _ = jax.lax.top_k(jnp.where(free[None, :], weight_TE, 0.0), scores.experts_per_token)
    start = start._replace(taken=free, best=best_TK)
  return jax.lax.while_loop(lambda kept: kept.more, take_best, start).taken
