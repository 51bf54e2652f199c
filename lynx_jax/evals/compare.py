"""Compares policies on the same batches, and at the same number of experts. Every figure has an interval."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Int32

from lynx_jax.evals.bootstrap import Interval, interval, paired_ratio, ratio, resamples
from lynx_jax.evals.decoding import whole_rows
from lynx_jax.evals.faithful import batch_costs
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy

# Resolution, in experts, of the search for the fewest.
_GRID = 0.05


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCost:
  """What a policy reads, and how much it changes the model's predictions, over some batches.

  Attributes:
    experts: distinct experts a layer and step.
    own_experts: the same of the model's own routing.
    cross_entropy: nats a token.
    increase: of cross-entropy over the model's own routing, relative.
    divergence: KL from the model's own distribution, nats a token.
    agreement: share of tokens whose most likely successor is the model's own.
    retained: mean mass that a token keeps.
    worst_retained: the least mass that any token keeps in any layer.
  """

  experts: Interval
  own_experts: Interval
  cross_entropy: Interval
  increase: Interval
  divergence: Interval
  agreement: Interval
  retained: Interval
  worst_retained: float


class Measured(NamedTuple):
  """The fields of `BatchCost`, as arrays with one entry for each batch."""

  tokens: Float[np.ndarray, "n"]
  cross_entropy: Float[np.ndarray, "n"]
  own_cross_entropy: Float[np.ndarray, "n"]
  divergence: Float[np.ndarray, "n"]
  agreement: Float[np.ndarray, "n"]
  experts: Float[np.ndarray, "n"]
  own_experts: Float[np.ndarray, "n"]
  retained: Float[np.ndarray, "n"]
  worst_retained: Float[np.ndarray, "n"]


def measure_policies(
  params: Params,
  batches: Sequence[Int32[np.ndarray, "B L"]],
  policies: Sequence[RoutingPolicy],
  *,
  prompt_length: int = 0,
  progress: Callable[[int], None] = lambda batch: None,
) -> list[Measured]:
  """Measures every policy. Each batch decodes on its own. Returns one `Measured` for each policy.

  Args:
    params: a loaded model.
    batches: whole rows of tokens; more of them make narrower intervals.
    policies: all run on the same batches, so that differences are paired.
    prompt_length: tokens of each row that are prefilled and not judged.
    progress: called after each batch, with its number.
  """
  by_batch = []
  for index, tokens in enumerate(batches):
    by_batch.append(
      jax.device_get(batch_costs(params, whole_rows(jnp.asarray(tokens), prompt_length), tuple(policies)))
    )
    progress(index)
  return [
    Measured(*(np.array(column, np.float64) for column in zip(*of_policy, strict=True)))
    for of_policy in zip(*by_batch, strict=True)
  ]


def summarize(costs: Measured) -> PolicyCost:
  """Means over the batches of one policy, with intervals."""
  ones = np.ones(len(costs.tokens))
  return PolicyCost(
    experts=ratio(costs.experts, ones),
    own_experts=ratio(costs.own_experts, ones),
    cross_entropy=ratio(costs.cross_entropy, costs.tokens),
    increase=paired_ratio(costs.cross_entropy, costs.own_cross_entropy),
    divergence=ratio(costs.divergence, costs.tokens),
    agreement=ratio(costs.agreement, costs.tokens),
    retained=ratio(costs.retained, costs.tokens),
    worst_retained=float(np.min(costs.worst_retained)),
  )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CostAt:
  """What a family of policies costs at a number of experts."""

  divergence: Interval
  increase: Interval


def cost_at(family: Sequence[Measured], experts: float, *, seed: int = 0) -> CostAt | None:
  """Divergence and increase where `family`, one policy with several knobs, reads `experts` a layer and step.

  Of the knobs only the best count: those that no other beats in both. Between the knobs on either side the divergence
  is interpolated in its logarithm and the increase linearly. None where no two knobs lie on either side. Families
  measured on the same batches share their resamples.
  """
  family = [family[index] for index in best_knobs([mean_point(costs) for costs in family])]
  points = np.array([mean_point(costs) for costs in family])
  if not points[:, 0].min() <= experts <= points[:, 0].max():
    return None
  drawn = resamples(len(family[0].tokens), seed)
  curves = np.array([_point(costs, drawn) for costs in family])
  resampled = np.array([_interpolate(curves[:, :, draw], experts) for draw in range(curves.shape[2])])
  divergence, increase = _interpolate(points, experts)
  return CostAt(divergence=interval(divergence, resampled[:, 0]), increase=interval(increase, resampled[:, 1]))


def times_cheaper(costs: Measured, family: Sequence[Measured], *, seed: int = 0) -> Interval | None:
  """Divergence of `family`, interpolated to the experts that `costs` reads, over the divergence of `costs`.

  Batches are resampled together, and so are the experts at which `family` is read off. None where `family` has no
  knobs on either side.
  """
  family = [family[index] for index in best_knobs([mean_point(of) for of in family])]
  drawn = resamples(len(costs.tokens), seed)
  curves, ours = np.array([_point(of, drawn) for of in family]), _point(costs, drawn)
  whole, mean = np.array([mean_point(of) for of in family]), mean_point(costs)
  if not whole[:, 0].min() <= mean[0] <= whole[:, 0].max():
    return None
  resampled = [_interpolate(curves[:, :, at], ours[0, at])[0] / ours[1, at] for at in range(drawn.shape[0])]
  return interval(_interpolate(whole, mean[0])[0] / mean[1], np.array(resampled))


def fewest_within(
  family: Sequence[Measured], rival: Sequence[Measured], *, increase: float, divergence: float
) -> float | None:
  """The fewest experts at which `family` keeps two bounds, interpolated between its knobs; None if it never does.

  Args:
    family: one policy with several knobs.
    rival: another, on the same batches. Where it has no knobs on either side nothing is claimed.
    increase: bound on the relative increase of cross-entropy.
    divergence: bound on the divergence, as a share of the rival's at the same experts.
  """
  ours, theirs = (
    np.array([points[index] for index in best_knobs(points)])
    for points in ([mean_point(costs) for costs in of] for of in (family, rival))
  )
  low, high = max(ours[:, 0].min(), theirs[:, 0].min()), min(ours[:, 0].max(), theirs[:, 0].max())
  for experts in np.arange(low, high + _GRID, _GRID):
    (cost, more), (rivals, _) = _interpolate(ours, experts), _interpolate(theirs, experts)
    if more < increase and cost <= divergence * rivals:
      return float(experts)
  return None


def mean_point(costs: Measured) -> Float[np.ndarray, "3"]:
  """Experts, divergence and increase over all batches."""
  return _point(costs, np.arange(len(costs.tokens))[None])[:, 0]


def best_knobs(points: Sequence[Float[np.ndarray, "_"]]) -> list[int]:
  """Indices, sorted by experts, of the points (experts, divergence, ...) that no other point beats in both."""
  order = sorted(range(len(points)), key=lambda index: (points[index][0], points[index][1]))
  best, least = [], np.inf
  for index in order:
    if points[index][1] < least:
      best.append(index)
      least = points[index][1]
  return best


def _point(costs: Measured, drawn: Int[np.ndarray, "R n"]) -> Float[np.ndarray, "3 R"]:
  """Experts, divergence and increase of each resample of batches."""
  tokens = costs.tokens[drawn].sum(axis=1)
  divergence = costs.divergence[drawn].sum(axis=1) / tokens
  increase = costs.cross_entropy[drawn].sum(axis=1) / costs.own_cross_entropy[drawn].sum(axis=1) - 1
  return np.stack([costs.experts[drawn].mean(axis=1), divergence, increase])


def _interpolate(points: Float[np.ndarray, "N 3"], experts: float) -> tuple[float, float]:
  """Divergence and increase at `experts`, held constant past the ends."""
  ordered = points[np.argsort(points[:, 0])]
  # A knob that changes nothing has a divergence of zero, or below zero by rounding, and so no logarithm.
  logs = np.log(np.maximum(ordered[:, 1], 1e-9))
  return float(np.exp(np.interp(experts, ordered[:, 0], logs))), float(np.interp(experts, ordered[:, 0], ordered[:, 2]))
