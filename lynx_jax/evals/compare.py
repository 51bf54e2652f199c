"""Policies side by side on the same batches, every figure with an interval."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from lynx_jax.evals.bootstrap import Interval, paired_ratio, ratio
from lynx_jax.evals.decoding import whole_rows
from lynx_jax.evals.faithful import batch_costs
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, format_policy


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCost:
  """What a policy reads and costs over some batches.

  Attributes:
    policy: as text.
    experts: distinct experts a layer and step.
    own_experts: the same of the model's own routing.
    cross_entropy: nats a token.
    increase: of cross-entropy over the model's own routing, relative.
    divergence: KL from the model's own distribution, nats a token.
    agreement: share of tokens whose most likely successor is the model's own.
    retained: mean mass that a token keeps.
    worst_retained: the least mass that any token keeps in any layer.
  """

  policy: str
  experts: Interval
  own_experts: Interval
  cross_entropy: Interval
  increase: Interval
  divergence: Interval
  agreement: Interval
  retained: Interval
  worst_retained: float


def compare_policies(
  params: Params,
  batches: Sequence[Int32[np.ndarray, "B L"]],
  policies: Sequence[RoutingPolicy],
  *,
  prompt_length: int = 0,
  progress: Callable[[int], None] = lambda batch: None,
) -> list[PolicyCost]:
  """Costs of every policy where each batch decodes on its own.

  Args:
    params: a loaded model.
    batches: whole rows of tokens; more of them make narrower intervals.
    policies: all run on the same batches, so that differences are paired.
    prompt_length: tokens of each row that are prefilled and not judged.
    progress: called after each batch, with its number.
  """
  costs = []
  for index, tokens in enumerate(batches):
    found = batch_costs(params, whole_rows(jnp.asarray(tokens), prompt_length), tuple(policies))
    costs.append(jax.device_get(found))
    progress(index)
  return [_summed(policy, [batch[index] for batch in costs]) for index, policy in enumerate(policies)]


def _summed(policy: RoutingPolicy, batches: list) -> PolicyCost:
  column = {name: np.array([getattr(batch, name) for batch in batches], np.float64) for name in batches[0]._fields}
  tokens, ones = column["tokens"], np.ones(len(batches))
  return PolicyCost(
    policy=format_policy(policy),
    experts=ratio(column["experts"], ones),
    own_experts=ratio(column["own_experts"], ones),
    cross_entropy=ratio(column["cross_entropy"], tokens),
    increase=paired_ratio(column["cross_entropy"], column["own_cross_entropy"]),
    divergence=ratio(column["divergence"], tokens),
    agreement=ratio(column["agreement"], tokens),
    retained=ratio(column["retained"], tokens),
    worst_retained=float(column["worst_retained"].min()),
  )
