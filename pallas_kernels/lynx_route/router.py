"""The model's own rule: which experts a row chooses by its router's logits, and what they weigh.

`Router` names the rule. The functions below compute it in plain JAX, in float32. The tests compare them with the
routers of transformers: Mixtral, Qwen2-MoE, DeepSeek-V2 and -V3, Phi-MoE (`sparsemixer`), Llama-4, gpt-oss, Granite.
"""

from dataclasses import KW_ONLY, dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from pallas_kernels.checks import number_fields, refusal, require, whole_fields
from pallas_kernels.dims import Array, ExpertIds, ExpertMask, ExpertWeights

SCORINGS = ("softmax", "sigmoid", "sparsemixer")
GROUP_SCORES = ("max", "top2_sum")

# SparseMixer (arXiv 2409.12136): a logit further than twice this share of the larger one is far.
SPARSEMIXER_EPS = 0.01
# DeepSeek-V3 adds this to a sum of sigmoids, which may all vanish.
SIGMOID_GUARD = 1e-20


@dataclass(frozen=True, slots=True)
class Router:
  """The model's own rule: which experts a token runs by its router's logits, and with what weights; all in float32.

  Gates are the softmax or the sigmoid of the logits. A token runs the `top_k` experts with the largest gates. Where the
  router has groups, it chooses among the experts of its best groups only. The weights are the gates of the chosen
  experts, divided by their sum if `renormalize`, times `scale`. A selection bias is data and not part of this class: it
  is added to the gates when experts are chosen, and not when they are weighed.

  Granite and gpt-oss take a softmax over the chosen logits. That is "softmax" with `renormalize`, which is
  mathematically the same.

  Attributes:
    scoring: "softmax" over all experts, "sigmoid" of each (DeepSeek-V3, Llama-4), or "sparsemixer" (Phi-3.5,
      arXiv 2409.12136). SparseMixer chooses by logit, one expert after the other. Each weighs its softmax among the
      experts that are not yet chosen and whose logits are within 2 % of its own.
    renormalize: whether gates are divided by their sum (`norm_topk_prob`; Mixtral, Qwen3, DBRX, DeepSeek-V3) or not
      (Qwen2-MoE, OLMoE, DeepSeek-V2, Llama-4). False for "sparsemixer".
    scale: factor of all weights (`routed_scaling_factor`).
    groups: number of equal runs of experts (`n_group`); 1 means no groups.
    groups_kept: number of groups that a token may use (`topk_group`).
    group_score: how groups are ranked: by the best gate of the group, "max" (DeepSeek-V2, `group_limited_greedy`), or
      by the sum of its two largest, "top2_sum" (DeepSeek-V3, `noaux_tc`).
    unit_weights: every chosen expert weighs exactly 1, for experts that are a partition of a dense network.
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
      value = getattr(self, field)
      require(value in supported, f"Router.{field}", value, f"one of {', '.join(supported)}")
    for field in ("renormalize", "unit_weights"):
      value = getattr(self, field)
      require(isinstance(value, bool), f"Router.{field}", value, "True or False")
    number_fields(self, "scale", above=0, most=1e6, remedy="1 leaves weights as they are")
    whole_fields(self, "groups", least=1, remedy="1 is no groups")
    whole_fields(self, "groups_kept", least=1, most=self.groups, remedy="it is the number of groups a token may use")
    self._check_together()

  def _check_together(self) -> None:
    if self.unit_weights and self.scale != 1:
      raise refusal("Router.scale", self.scale, "1 where unit_weights is True", "leave one of them out")
    if self.scoring == "sparsemixer" and (self.renormalize or self.unit_weights or self.groups > 1):
      raise refusal(
        "Router", self, "no other setting with scoring='sparsemixer', which has weights of its own and no groups",
        "give renormalize=False alone",
      )  # fmt: skip

  def check_sizes(self, experts: int, top_k: int) -> None:
    """ValueError unless a token can choose `top_k` of `experts` experts by this rule."""
    size = experts // self.groups
    if size * self.groups != experts or size < (2 if self.group_score == "top2_sum" else 1):
      expected = f"a number that cuts {experts} experts into groups whose score is {self.group_score!r}"
      raise refusal("Router.groups", self.groups, expected)
    if top_k > size * self.groups_kept:
      expected = f"enough groups for the {top_k} experts that a token runs; these hold {size * self.groups_kept}"
      raise refusal("Router.groups_kept", self.groups_kept, expected, "keep more groups")


def gates(logits_TE: Float32[Array, "T E"], router: Router) -> Float32[Array, "T E"]:
  """The softmax or the sigmoid of the logits."""
  return jax.nn.sigmoid(logits_TE) if router.scoring == "sigmoid" else jax.nn.softmax(logits_TE, axis=-1)


def log_gates(logits_TE: Float32[Array, "T E"], router: Router) -> Float32[Array, "T E"]:
  """The logarithms of the gates, up to a constant of each row."""
  return jax.nn.log_sigmoid(logits_TE) if router.scoring == "sigmoid" else logits_TE


def in_best_groups(
  logits_TE: Float32[Array, "T E"], choice_TE: Float32[Array, "T E"], router: Router, *, biased: bool
) -> Bool[Array, "T E"]:
  """Whether each expert is in one of the row's best groups; ties go to the group of lowest index."""
  rows, experts = choice_TE.shape

  def by_group(scores_TE: Array) -> Array:
    return scores_TE.reshape(rows, router.groups, experts // router.groups)

  if router.group_score == "max":
    score_TG = jnp.max(by_group(choice_TE), axis=-1)
  else:
    gates_TE = choice_TE if biased else gates(logits_TE, router)
    score_TG = jnp.sum(jax.lax.top_k(by_group(gates_TE), 2)[0], axis=-1)
  _, kept = jax.lax.top_k(score_TG, router.groups_kept)
  kept_TG = jnp.any(kept[:, :, None] == jnp.arange(router.groups, dtype=jnp.int32)[None, None, :], axis=1)
  return jnp.repeat(kept_TG, experts // router.groups, axis=1)


def own_weights(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, router: Router) -> ExpertWeights:
  """The weights of the experts that the model itself chose."""
  if router.unit_weights:
    return jnp.ones(ids_TK.shape, jnp.float32)
  if router.scoring == "sparsemixer":
    weights_TK = sparse_mixer(logits_TE, ids_TK)
  else:
    weights_TK = jnp.take_along_axis(gates(logits_TE, router), ids_TK, axis=-1)
  if router.renormalize:
    sum_T1 = jnp.sum(weights_TK, axis=-1, keepdims=True)
    weights_TK = weights_TK / (sum_T1 + SIGMOID_GUARD if router.scoring == "sigmoid" else sum_T1)
  return weights_TK if router.scale == 1 else weights_TK * router.scale


def total_weight(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, router: Router) -> Float32[Array, "T"]:
  """The sum of a row's own weights; exact where they are softmax gates divided by their sum."""
  if router.scoring == "softmax" and router.renormalize and not router.unit_weights:
    return jnp.full(ids_TK.shape[:1], router.scale, jnp.float32)
  return jnp.sum(own_weights(logits_TE, ids_TK, router), axis=-1)


def sparse_mixer(logits_TE: Float32[Array, "T E"], ids_TK: ExpertIds, keep: ExpertMask | None = None) -> ExpertWeights:
  """SparseMixer's weights (arXiv 2409.12136) of the experts `ids`, chosen in that order.

  Each expert weighs its softmax among the experts of `keep` that are not chosen before it and are close to it.
  """
  top_TK1 = jnp.take_along_axis(logits_TE, ids_TK, axis=-1)[:, :, None]
  logits_T1E = logits_TE[:, None, :]
  chosen_TKE = ids_TK[:, :, None] == jnp.arange(logits_TE.shape[1], dtype=jnp.int32)[None, None, :]
  before_TKE = (jnp.cumsum(chosen_TKE, axis=1, dtype=jnp.int32) > 0) & ~chosen_TKE
  size_TKE = jnp.maximum(jnp.abs(logits_T1E), top_TK1)
  far_TKE = (top_TK1 - logits_T1E) / jnp.where(size_TKE > 0, size_TKE, 1.0) > 2 * SPARSEMIXER_EPS
  among_TKE = ~(before_TKE | far_TKE) if keep is None else ~(before_TKE | far_TKE) & keep[None, None, :]
  return 1.0 / jnp.sum(jnp.exp(jnp.where(among_TKE, logits_T1E - top_TK1, -jnp.inf)), axis=-1)
