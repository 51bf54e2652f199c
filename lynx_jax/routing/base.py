"""What routing is given and gives back: the model's rule, the scores of a batch, a policy, a routing."""

import abc
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float32

from lynx_jax.routing.knobs import positive_number, whole_number
from pallas_kernels.dims import Array, ExpertIds, ExpertMask, ExpertWeights, RowMask

SCORINGS = ("softmax", "sigmoid", "sparsemixer")
GROUP_SCORES = ("max", "top2_sum")

# Of a logit: so that the difference of any two is finite.
LOWEST = -float(np.finfo(np.float32).max) / 2


@dataclass(frozen=True, slots=True)
class Router:
  """The model's own rule: which experts a token runs by its router's logits, and with what weights; all in float32.

  Gates are the softmax or the sigmoid of the logits. A token runs the `top_k` experts of largest gate, in the best
  groups of experts where the router has groups. Its weights are their gates, divided by their sum or not, times
  `scale`. A selection bias, which is data and not part of this, is added to the gates for the choice alone.

  Softmax over the chosen logits (Granite, gpt-oss) is "softmax" with `renormalize`, the same number by another way.

  Attributes:
    scoring: "softmax" over all experts; "sigmoid" of each (DeepSeek-V3, Llama-4); or "sparsemixer" (Phi-3.5,
      arXiv 2409.12136): expert after expert by logit, each weighing its softmax among those not yet chosen whose logits
      are within 2 % of its own.
    renormalize: whether gates are divided by their sum (`norm_topk_prob`; Mixtral, Qwen3, DBRX, DeepSeek-V3) or not
      (Qwen2-MoE, OLMoE, DeepSeek-V2, Llama-4). "sparsemixer" does not.
    scale: what weights are multiplied by (`routed_scaling_factor`).
    groups: equal runs of experts that are chosen first (`n_group`); 1 is no groups.
    groups_kept: how many of them a token may use (`topk_group`).
    group_score: a group's score: its best expert's gate, "max" (DeepSeek-V2, `group_limited_greedy`), or the sum of
      the two largest, "top2_sum" (DeepSeek-V3, `noaux_tc`).
    unit_weights: every chosen expert weighs exactly 1: experts that are a partition of a dense network.
  """

  scoring: str = "softmax"
  renormalize: bool = True
  _: KW_ONLY
  scale: float | int = 1.0
  groups: int = 1
  groups_kept: int = 1
  group_score: str = "max"
  unit_weights: bool = False

  def __post_init__(self) -> None:
    for field, supported in (("scoring", SCORINGS), ("group_score", GROUP_SCORES)):
      if getattr(self, field) not in supported:
        raise ValueError(f"Router.{field} = {getattr(self, field)!r} is not supported; use one of {supported}")
    for field in ("renormalize", "unit_weights"):
      if not isinstance(getattr(self, field), bool):
        raise ValueError(f"Router.{field} = {getattr(self, field)!r} is not a bool; give True or False")
    remedy = "1 leaves weights as they are"
    object.__setattr__(self, "scale", positive_number("Router", "scale", self.scale, most=1e6, remedy=remedy))
    for field, remedy in (("groups", "1 is no groups"), ("groups_kept", "give how many groups a token may use")):
      object.__setattr__(self, field, whole_number("Router", field, getattr(self, field), least=1, remedy=remedy))
    self._check_together()

  def _check_together(self) -> None:
    if self.groups_kept > self.groups:
      raise ValueError(f"Router.groups_kept = {self.groups_kept} is more than Router.groups = {self.groups}")
    if self.unit_weights and self.scale != 1:
      raise ValueError(f"Router.scale = {self.scale} does not go with unit_weights; leave one of them out")
    if self.scoring == "sparsemixer" and (self.renormalize or self.unit_weights or self.groups > 1):
      raise ValueError(
        f"Router.scoring = 'sparsemixer' has weights of its own and no groups: {self}; give renormalize=False alone"
      )

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError unless a token can choose `top_k` of so many experts by this rule."""
    size = experts // self.groups
    if size * self.groups != experts or size < (2 if self.group_score == "top2_sum" else 1):
      raise ValueError(
        f"Router.groups = {self.groups} does not cut {experts} experts into groups whose score is {self.group_score!r}"
      )
    if top_k > size * self.groups_kept:
      raise ValueError(
        f"Router.groups_kept = {self.groups_kept} leaves a token {size * self.groups_kept} of {experts} experts, "
        f"and it runs top_k = {top_k}; keep more groups"
      )


class Routing(NamedTuple):
  """Which experts each row runs, and with what weight.

  Attributes:
    ids: int32 [T, K], distinct in each row, by descending logit. An invalid row repeats the first active
      experts, so that it costs no weight reads.
    weights: float32 [T, K], zero on invalid rows.
    active: bool [E], the experts that some valid row runs.
  """

  ids: ExpertIds
  weights: ExpertWeights
  active: ExpertMask


class Scores(NamedTuple):
  """What a policy sees of a batch: float32, finite, and free of whatever invalid rows held.

  Attributes:
    logits: [T, E], how far apart a row's experts lie, in nats, in the order in which the model prefers them. The
      router's logits; with a selection bias, the logit that would give an expert its place beside the row's first
      expert if both had the bias of that one. `LOWEST` or less: the row may not choose the expert.
    probs: [T, E], what each expert is worth to a row, at most 1 in sum and never more than an expert that the model
      prefers: the gates, as shares of all experts' gates, with zero for experts that the row may not choose. With a
      selection bias, the gate or the least gate of an expert that the model prefers.
    ids: [T, K], the experts that each row runs when every expert is kept; K is what
      `RoutingPolicy.experts_per_token` says.
    own_mass: [T], `probs` of the model's own top k, also where a row runs fewer experts.
    valid: [T], the rows that count; no other row may influence a keep set.
    router_logits: [T, E], what weights are computed from, infinities clipped to large finite values.
    choice: [T, E], what a row's experts are chosen by: the router's logits, or its gates plus the selection bias.
    total: [T], the sum of the weights that the model gives the row's own top k.
  """

  logits: Float32[Array, "T E"]
  probs: Float32[Array, "T E"]
  ids: ExpertIds
  own_mass: Float32[Array, "T"]
  valid: RowMask
  router_logits: Float32[Array, "T E"]
  choice: Float32[Array, "T E"]
  total: Float32[Array, "T"]

  @property
  def num_experts(self) -> int:
    """E."""
    return self.logits.shape[1]

  @property
  def experts_per_token(self) -> int:
    """K: how many experts each row runs."""
    return self.ids.shape[1]


class RoutingPolicy(abc.ABC):
  """Which experts a decode batch may use.

  Subclasses are frozen dataclasses, since jit takes a policy as a static argument. With a batch-aware policy,
  what a row computes depends on the rows that it shares the batch with.

  Attributes:
    batch_aware: whether the valid rows choose a keep set together. If not, `keep_set` restricts nothing:
      every row runs its own top `experts_per_token`.
  """

  __slots__ = ()
  __dataclass_fields__: ClassVar[dict[str, Any]]  # tells type checkers what every subclass is
  batch_aware: ClassVar[bool] = True

  def experts_per_token(self, top_k: int) -> int:
    """Experts that one token runs where the model's own rule runs `top_k`; ValueError if it cannot work."""
    return top_k

  @abc.abstractmethod
  def keep_set(self, scores: Scores) -> ExpertMask:
    """The experts [E] that rows may use; the shared remap fills a set that is too small for one row."""
