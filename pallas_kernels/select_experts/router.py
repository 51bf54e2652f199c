"""How a model's router turns a row's logits into a choice of experts and their weights, as frozen, hashable data."""

import dataclasses

SCORINGS = ("softmax", "sigmoid", "sparsemixer")
GROUP_SCORES = ("max", "top2_sum")

# SparseMixer's (arXiv 2409.12136): a logit further than twice this share of the larger one is far.
SPARSEMIXER_EPS = 0.01
# Beside a sum of sigmoids, which may all vanish.
SIGMOID_GUARD = 1e-20


@dataclasses.dataclass(frozen=True, slots=True)
class Router:
  """A row runs its `top_k` experts of largest gate, in its best groups; a selection bias counts for the choice alone.

  Attributes:
    scoring: gates are the "softmax" of the logits or the "sigmoid" of each; "sparsemixer" chooses by logit, and each
      expert weighs its softmax among those not chosen before it whose logits are within 2 % of its own.
    renormalize: whether weights are gates divided by their sum, or gates.
    scale: what weights are multiplied by.
    groups: equal runs of experts, of which a row uses the best; 1 is no groups.
    groups_kept: how many.
    group_score: a group's score: its largest gate, "max", or the sum of its two largest, "top2_sum".
    unit_weights: every expert weighs 1.
  """

  scoring: str = "softmax"
  renormalize: bool = True
  scale: float = 1.0
  groups: int = 1
  groups_kept: int = 1
  group_score: str = "max"
  unit_weights: bool = False

  def __post_init__(self) -> None:
    for field, supported in (("scoring", SCORINGS), ("group_score", GROUP_SCORES)):
      if getattr(self, field) not in supported:
        raise ValueError(f"Router.{field} = {getattr(self, field)!r} is not supported; use one of {supported}")
    if not 1 <= self.groups_kept <= self.groups:
      raise ValueError(f"Router.groups_kept = {self.groups_kept}: give a number from 1 to groups = {self.groups}")
    if self.scoring == "sparsemixer" and (self.renormalize or self.unit_weights or self.groups > 1):
      raise ValueError(f"{self}: sparsemixer has weights of its own and no groups; give renormalize=False alone")

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError unless a row can choose `top_k` of so many experts."""
    size = experts // self.groups
    if size * self.groups != experts or size < (2 if self.group_score == "top2_sum" else 1):
      raise ValueError(f"Router.groups = {self.groups} does not cut {experts} experts into groups that can be scored")
    if not 1 <= top_k <= size * self.groups_kept:
      raise ValueError(
        f"top_k is {top_k}: give a number from 1 to the experts that a row may use, {size * self.groups_kept}"
      )
