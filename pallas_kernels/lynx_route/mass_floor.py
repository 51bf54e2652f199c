"""Keep sets with a promise: a floor on what each token retains, or a limit on how many experts are read.

Both are greedy covers. A token's retained mass is the gate probability of the best k experts it finds inside
the keep set. As a function of the set that is monotone and submodular, so adding the expert of largest gain
comes within a logarithmic factor of the smallest set that meets a floor (Wolsey 1982), and within 1 - 1/e of
the best set of a given size (Nemhauser, Wolsey and Fisher 1978).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Int32

from pallas_kernels.checks import number_fields, require, whole_fields
from pallas_kernels.dims import Array, ExpertMask
from pallas_kernels.lynx_route.policy import MOST, RoutingPolicy, check_kept, named_policy
from pallas_kernels.lynx_route.scores import Scores
from pallas_kernels.lynx_route.terms import best_per_cost, in_units, total_cost, weighted
from pallas_kernels.lynx_route.topk import every_expert

# A probability of 1 in the cover's fixed point: sums over a row's experts still fit an int32.
UNIT = 1 << 30


@named_policy("mass_floor")
@dataclass(frozen=True, slots=True)
class MassFloor(RoutingPolicy):
  """The smallest set, by greedy cover, in which every valid token keeps `tau` of its own routed mass.

  Attributes:
    tau: least retained mass of a token: the gate probabilities of the experts that it runs, summed, over
      those of its own top k. 1 keeps every token's own experts, or equals of theirs.
  """

  tau: float | int

  def __post_init__(self) -> None:
    remedy = "it is the share of its own routed mass that every token keeps, such as 0.9"
    number_fields(self, "tau", above=0, most=1, remedy=remedy)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Experts added by descending gain until no valid row is short of its floor."""
    all_experts = in_units(scores.num_experts, scores.num_experts, scores.terms.cost)
    return greedy_cover(scores, every_expert(scores), self.tau, limit=all_experts)


@named_policy("budget")
@dataclass(frozen=True, slots=True)
class Budget(RoutingPolicy):
  """Any policy, held to `max_active` experts: a limit on a step's time, which is linear in that number.

  Attributes:
    policy: whose keep set is used while it fits, and is else cut down to the part that retains most mass.
    max_active: the most experts that the batch may read, at least as many as one token runs.
  """

  policy: RoutingPolicy
  max_active: int

  def __post_init__(self) -> None:
    require(isinstance(self.policy, RoutingPolicy), "Budget.policy", self.policy, "a policy", "give one such as TopK()")
    whole_fields(self, "max_active", least=1, most=MOST, remedy="it is the most experts that a batch may read")

  def experts_per_token(self, top_k: int) -> int:
    """What the inner policy says."""
    return self.policy.experts_per_token(top_k)

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError if `max_active` is less than one token runs, or more than there are experts."""
    self.policy.check_sizes(experts, top_k)
    check_kept("Budget.max_active", self.max_active, experts, self.policy.experts_per_token(top_k))

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The inner policy's set if it fits, else the part of it that retains most mass at a cost of `max_active`."""
    return within_limit(scores, self.policy.keep_set(scores), self.max_active)


def within_limit(scores: Scores, keep: ExpertMask, limit: int | Array) -> ExpertMask:
  """`keep` if it costs no more than `limit`, else the part of it, by greedy cover, that retains most mass.

  Experts that are free belong to the set, and count: the limit is on all that the batch reads.
  """
  _, cost, free = scores.terms
  most = in_units(limit, scores.num_experts, cost)
  keep = keep if free is None else keep | free
  fits = total_cost(keep, cost) <= most
  cover = greedy_cover(scores, keep, tau=1.0, limit=jnp.where(fits, 0, most))
  return jnp.where(fits, keep, cover)


class _Cover(NamedTuple):
  """The loop's state: the experts taken so far, and each row's k best probabilities in them."""

  taken: ExpertMask
  best: Int32[Array, "T K"]
  deficit: Int32[Array, "T"]


def greedy_cover(scores: Scores, candidates: ExpertMask, tau: float, limit: int | Int32[Array, ""]) -> ExpertMask:
  """Take candidates by descending gain, per cost, until each valid row has `tau` of its own mass, or `limit` is full.

  An expert's gain is what it adds to the retained mass of the rows by their say, none credited beyond its floor; ties
  go to the lowest index. Candidates that no longer fit the limit on the total cost are passed over. Experts that are
  free are taken from the start. Probabilities are rounded down to fixed point and floors up, so that a row that meets
  its floor here meets it in float32, and the sums of gains do not depend on the order of rows.
  """
  say, cost, free = scores.terms
  fixed_TE = jnp.floor(scores.worth * UNIT).astype(jnp.int32)
  own_T = jnp.sum(jnp.take_along_axis(fixed_TE, scores.ids, axis=-1), axis=-1, dtype=jnp.int32)
  slack_T = jnp.floor((1.0 - tau) * own_T.astype(jnp.float32)).astype(jnp.int32)
  floor_T = jnp.where(scores.valid, own_T - slack_T, 0)
  # Gains of T rows add up in an int32 after this shift; rounded up, so that a gain never vanishes.
  shift = (len(floor_T) - 1).bit_length()

  def open_candidates(taken: ExpertMask) -> ExpertMask:
    open_E = candidates & ~taken
    return open_E if cost is None else open_E & (total_cost(taken, cost) + cost <= limit)

  def short(cover: _Cover) -> Array:
    room = total_cost(cover.taken, None) < limit if cost is None else jnp.any(open_candidates(cover.taken))
    return jnp.any(cover.deficit > 0) & room

  def take_best(cover: _Cover) -> _Cover:
    worst_T = jnp.min(cover.best, axis=-1)
    added_TE = jnp.clip(fixed_TE - worst_T[:, None], 0, cover.deficit[:, None])
    gain_TE = (added_TE + ((1 << shift) - 1)) >> shift
    gain_E = jnp.sum(gain_TE if say is None else weighted(gain_TE, say[:, None]), axis=0, dtype=jnp.int32)
    expert = best_per_cost(jnp.where(open_candidates(cover.taken), gain_E, -1), cost)
    slot_T = jax.lax.argmin(cover.best, 1, jnp.int32)
    replaced_TK = jnp.arange(cover.best.shape[1], dtype=jnp.int32)[None, :] == slot_T[:, None]
    best_TK = jnp.where(replaced_TK, jnp.maximum(worst_T, fixed_TE[:, expert])[:, None], cover.best)
    taken_E = cover.taken | (jnp.arange(scores.num_experts, dtype=jnp.int32) == expert)
    return _Cover(taken_E, best_TK, jnp.maximum(floor_T - jnp.sum(best_TK, axis=-1, dtype=jnp.int32), 0))

  start = _Cover(jnp.zeros_like(candidates), jnp.zeros_like(scores.ids), floor_T)
  if free is not None:
    best_TK = jax.lax.top_k(jnp.where(free[None, :], fixed_TE, 0), scores.experts_per_token)[0]
    start = _Cover(free, best_TK, jnp.maximum(floor_T - jnp.sum(best_TK, axis=-1, dtype=jnp.int32), 0))
  return jax.lax.while_loop(short, take_best, start).taken
