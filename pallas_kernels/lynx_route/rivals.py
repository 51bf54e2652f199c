"""The published alternatives to Lynx, in the same frame."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from pallas_kernels.checks import whole_fields
from pallas_kernels.dims import ExpertMask
from pallas_kernels.lynx_route.expert_sets import chosen_by_row, fill, summed_worth, union_of_rows
from pallas_kernels.lynx_route.policy import MOST, RoutingPolicy, check_chosen, check_kept, named_policy
from pallas_kernels.lynx_route.scores import Scores
from pallas_kernels.lynx_route.topk import every_expert


@named_policy("prune")
@dataclass(frozen=True, slots=True)
class Prune(RoutingPolicy):
  """Every token runs only its top k0 experts: the baseline that ignores the batch.

  A lone row is pruned too, and `Routing.ids` has min(k0, top_k) columns. Weights follow the rule of all
  policies: they sum to 1, or to the gate probability of the model's own top k.

  Attributes:
    k0: experts per token, at most the model's top_k, where nothing changes.
  """

  k0: int
  batch_aware: ClassVar[bool] = False

  def __post_init__(self) -> None:
    whole_fields(self, "k0", least=1, most=MOST, remedy="it is the number of experts that a token runs")

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError if `k0` is more than the model runs."""
    check_chosen("Prune.k0", self.k0, top_k)

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
    whole_fields(self, "keep", least=1, most=MOST, remedy="it is the number of experts to keep")

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError if `keep` is less than one token runs, or more than there are experts."""
    check_kept("CountVote.keep", self.keep, experts, top_k)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The `keep` experts that are in the own top k of most valid rows, ties to the lowest index."""
    chosen_TE = chosen_by_row(scores.ids, scores.num_experts) & scores.valid[:, None]
    votes_TE = chosen_TE if scores.terms.say is None else jnp.where(chosen_TE, scores.terms.say[:, None], 0)
    votes_E = jnp.sum(votes_TE, axis=0, dtype=jnp.int32)
    return fill(jnp.zeros(scores.num_experts, bool), self.keep, votes_E, scores)


@named_policy("oea")
@dataclass(frozen=True, slots=True)
class OEA(RoutingPolicy):
  """Opportunistic expert activation: keep every token's top k0 experts, let the rest ride along.

  arXiv 2511.02237, in its recommended form (p = 1, kmax = top_k, maxP = all experts).

  Attributes:
    k0: experts that each token insists on, at most the model's top_k, where nothing changes.
  """

  k0: int

  def __post_init__(self) -> None:
    whole_fields(self, "k0", least=1, most=MOST, remedy="it is the number of experts that each token insists on")

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError if `k0` is more than the model runs."""
    check_chosen("OEA.k0", self.k0, top_k)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The union of the valid rows' top k0."""
    return union_of_rows(scores.ids[:, : self.k0], scores.valid, scores.num_experts)


@named_policy("xshare")
@dataclass(frozen=True, slots=True)
class XShare(RoutingPolicy):
  """Protect every token's top k0, then fill a budget by summed gate probability (arXiv 2602.07265).

  Attributes:
    budget: how many experts to keep, at least the model's top_k; protected experts may exceed it.
    k0: experts of each token that are kept whatever the budget, at most the model's top_k.
  """

  budget: int
  k0: int = 1

  def __post_init__(self) -> None:
    whole_fields(self, "budget", least=1, most=MOST, remedy="it is the number of experts to keep")
    whole_fields(self, "k0", least=1, most=MOST, remedy="the published value is 1")

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError if `budget` is less than one token runs or more than there are experts, or `k0` exceeds top_k."""
    check_kept("XShare.budget", self.budget, experts, top_k)
    check_chosen("XShare.k0", self.k0, top_k)

  def keep_set(self, scores: Scores) -> ExpertMask:
    """The protected experts, and the next by gate probability summed over valid rows."""
    protected = union_of_rows(scores.ids[:, : self.k0], scores.valid, scores.num_experts)
    return fill(protected, self.budget, summed_worth(scores.worth, scores.valid, scores.terms.say), scores)
