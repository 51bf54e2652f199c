"""What routing is given and gives back: the model's rule, the scores of a batch, a policy, a routing."""

import abc
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from jaxtyping import Float32

from lynx_jax.dims import Array, ExpertIds, ExpertMask, ExpertWeights, RowMask

SUPPORTED_SCORING = ("softmax",)


@dataclass(frozen=True, slots=True)
class Router:
  """The model's own rule for turning router logits into the weights of a token's experts.

  Attributes:
    scoring: how logits become gate probabilities; "softmax" over all experts.
    renormalize: whether the weights of a token's experts sum to 1 (`norm_topk_prob` of Qwen3; Mixtral,
      DBRX) or keep the softmax mass of the model's own top k (Qwen2-MoE, OLMoE).
  """

  scoring: str = "softmax"
  renormalize: bool = True

  def __post_init__(self) -> None:
    if self.scoring not in SUPPORTED_SCORING:
      raise ValueError(f"Router.scoring = {self.scoring!r} is not supported; use one of {SUPPORTED_SCORING}")
    if not isinstance(self.renormalize, bool):
      raise ValueError(f"Router.renormalize = {self.renormalize!r} is not a bool; give True or False")


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
    logits: [T, E], infinities clipped to large finite values, zero on invalid rows.
    probs: [T, E], softmax of `logits`.
    ids: [T, K], the experts that each row runs when every expert is kept; K is what
      `RoutingPolicy.experts_per_token` says.
    own_mass: [T], gate probability of the model's own top k, also where a row runs fewer experts.
    valid: [T], the rows that count; no other row may influence a keep set.
  """

  logits: Float32[Array, "T E"]
  probs: Float32[Array, "T E"]
  ids: ExpertIds
  own_mass: Float32[Array, "T"]
  valid: RowMask

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
