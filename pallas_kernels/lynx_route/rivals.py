"""The published alternatives to Lynx, in the same frame."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from pallas_kernels.dims import ExpertMask
from pallas_kernels.lynx_route.expert_sets import chosen_by_row, grow, largest, union_of_rows
from pallas_kernels.lynx_route.knobs import require_room, whole_number
from pallas_kernels.lynx_route.policy import RoutingPolicy, named_policy
from pallas_kernels.lynx_route.scores import Scores
from pallas_kernels.lynx_route.topk import every_expert


@named_policy("prune")
@dataclass(frozen=True, slots=True)
class Prune(RoutingPolicy):
  """Every token runs only its top k0 experts: the baseline that ignores the batch.

  A lone row is pruned too, and `Routing.ids` has min(k0, top_k) columns. Weights follow the rule of all
  policies: they sum to 1, or to the gate probability of the model's own top k.

  Attributes:
    k0: experts per token; at or above the model's top_k, nothing changes.
  """

  k0: int
  batch_aware: ClassVar[bool] = False

  def __post_init__(self) -> None:
    k0 = whole_number("Prune", "k0", self.k0, least=1, remedy="give the number of experts that a token runs")
    object.__setattr__(self, "k0", k0)

  def experts_per_token(self, top_k: int) -> int:
    """`k0`, or `top_k` where that is less."""
    return min(self.k0, top_k)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """Every expert."""
    return every_expert(scores)


@named_policy("count_vote")
@dataclass(frozen=True, slots=True)
class CountVote(RoutingPolicy):
  """Keep the experts that most tokens choose (arXiv 2411.08982v1). May drop one that is vital to a token.

  Attributes:
    keep: how many experts to keep, at least the model's top_k.
  """

  keep: int

  def __post_init__(self) -> None:
    keep = whole_number("CountVote", "keep", self.keep, least=1, remedy="give how many experts to keep")
    object.__setattr__(self, "keep", keep)

  def experts_per_token(self, top_k: int) -> int:
    """`top_k`; ValueError if `keep` is less."""
    require_room("CountVote", "keep", self.keep, top_k)
    return top_k

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The `keep` experts that are in the own top k of most valid rows, ties to the lowest index."""
    chosen_TE = chosen_by_row(scores.ids, scores.num_experts) & scores.valid[:, None]
    return largest(jnp.sum(chosen_TE, axis=0, dtype=jnp.int32), self.keep)


@named_policy("oea")
@dataclass(frozen=True, slots=True)
class OEA(RoutingPolicy):
  """Opportunistic expert activation: keep every token's top k0 experts, let the rest ride along.

  arXiv 2511.02237, in its recommended form (p = 1, kmax = top_k, maxP = all experts).

  Attributes:
    k0: experts that each token insists on.
  """

  k0: int

  def __post_init__(self) -> None:
    remedy = "give the number of experts that each token insists on"
    object.__setattr__(self, "k0", whole_number("OEA", "k0", self.k0, least=1, remedy=remedy))

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The union of the valid rows' top k0."""
    return union_of_rows(scores.ids[:, : self.k0], scores.valid, scores.num_experts)


@named_policy("xshare")
@dataclass(frozen=True, slots=True)
class XShare(RoutingPolicy):
  """Protect every token's top k0, then fill a budget by summed gate probability (arXiv 2602.07265).

  Attributes:
    budget: how many experts to keep, at least the model's top_k; protected experts may exceed it.
    k0: experts of each token that are kept whatever the budget.
  """

  budget: int
  k0: int = 1

  def __post_init__(self) -> None:
    budget = whole_number("XShare", "budget", self.budget, least=1, remedy="give how many experts to keep")
    k0 = whole_number("XShare", "k0", self.k0, least=1, remedy="the published value is 1")
    object.__setattr__(self, "budget", budget)
    object.__setattr__(self, "k0", k0)

  def experts_per_token(self, top_k: int) -> int:
    """`top_k`; ValueError if `budget` is less."""
    require_room("XShare", "budget", self.budget, top_k)
    return top_k

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The protected experts, and the next by gate probability summed over valid rows."""
    protected = union_of_rows(scores.ids[:, : self.k0], scores.valid, scores.num_experts)
    return grow(protected, self.budget, scores.worth, scores.valid)
