"""Every policy at many knobs: what each reads and costs, and which is best at the same number of experts."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from lynx_jax.evals.compare import CostAt, Measured, cost_at, measure_policies
from lynx_jax.models.params import Params
from lynx_jax.routing import OEA, Auto, Budget, CountVote, Lynx, MassFloor, Prune, RoutingPolicy, TopK, XShare

_SIZES = 6


def knobs(experts: int, top_k: int, most: float) -> dict[str, tuple[RoutingPolicy, ...]]:
  """Policies by name, each at several knobs that cover its range.

  Args:
    experts: experts of a layer.
    top_k: experts per token.
    most: distinct experts that the model's own routing reads.
  """
  sizes = sorted({max(top_k, round(size)) for size in np.linspace(max(top_k, 0.3 * most), 0.95 * most, _SIZES)})
  fewer = range(1, top_k)
  return {
    "auto": tuple(Auto(share) for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5)),
    "lynx": tuple(Lynx(*pair) for pair in ((0.7, 1), (1, 1), (1, 2), (2, 2), (3, 2), (3, 4), (6, 4))),
    "oea": tuple(OEA(k0) for k0 in fewer),
    "xshare": tuple(XShare(size) for size in sizes),
    "mass_floor": tuple(MassFloor(tau) for tau in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)),
    "budget": tuple(Budget(TopK(), size) for size in sizes),
    "count_vote": tuple(CountVote(size) for size in sizes),
    "prune": tuple(Prune(k0) for k0 in fewer),
  }


def measure_frontier(
  params: Params,
  batches: Sequence[Int32[np.ndarray, "B L"]],
  *,
  prompt_length: int = 0,
  progress: Callable[[int], None] = lambda batch: None,
) -> dict[str, list[tuple[RoutingPolicy, Measured]]]:
  """Costs of every policy at each of its knobs; with each goes the model's own routing, where all curves end.

  Raises:
    ValueError: the model has no experts.
  """
  if not params.spec.moe_specs:
    raise ValueError("this model has no experts: there is nothing to route")
  moe = params.spec.moe_specs[0]
  (own,) = measure_policies(params, batches[:1], [TopK()], prompt_length=prompt_length)
  families = knobs(moe.experts, moe.top_k, float(own.own_experts[0]))
  policies = [policy for family in families.values() for policy in family]
  found = measure_policies(params, batches, [TopK(), *policies], prompt_length=prompt_length, progress=progress)
  measured = dict(zip(policies, found[1:], strict=True))
  return {
    name: [(TopK(), found[0]), *((policy, measured[policy]) for policy in family)] for name, family in families.items()
  }


def at_equal_experts(
  frontier: dict[str, list[tuple[RoutingPolicy, Measured]]], shares: Sequence[float]
) -> list[tuple[float, dict[str, CostAt | None]]]:
  """What each family costs where it reads these shares of the model's own number of experts, between its knobs.

  The model's own routing is left out: its divergence is zero, and interpolation is in the logarithm.
  """
  own = float(np.mean(next(iter(frontier.values()))[0][1].experts))
  return [
    (
      share * own,
      {
        name: cost_at([costs for policy, costs in curve if policy != TopK()], share * own)
        for name, curve in frontier.items()
      },
    )
    for share in shares
  ]
