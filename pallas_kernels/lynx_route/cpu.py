"""The whole of routing in one native call on the CPU, where XLA needs a dozen small steps and a loop."""

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import tile_rows
from pallas_kernels.lynx_route.arguments import RouteArrays
from pallas_kernels.lynx_route.auto import Auto
from pallas_kernels.lynx_route.lynx import Lynx, counted_bins, lowest_bin
from pallas_kernels.lynx_route.mass_floor import Budget, MassFloor
from pallas_kernels.lynx_route.policy import RoutingPolicy, TiledRouting
from pallas_kernels.lynx_route.rivals import OEA, Prune
from pallas_kernels.lynx_route.router import SCORINGS, Router
from pallas_kernels.lynx_route.terms import cost_unit, costs, in_units, says
from pallas_kernels.lynx_route.topk import TopK

# The native code of each policy: `KeepRule::Kind` of keep_sets.h.
_KINDS: dict[type[RoutingPolicy], int] = {TopK: 0, Prune: 0, OEA: 1, Lynx: 2, MassFloor: 3, Auto: 4}


def cpu_objection(arrays: RouteArrays, *, policy: RoutingPolicy, **options: object) -> str | None:
  """Why the native code cannot run this policy, or None."""
  if reason := unavailable():
    return reason
  # By exact type: a user's subclass may choose another keep set.
  inner = policy.policy if type(policy) is Budget else policy
  if type(inner) not in _KINDS or (inner is not policy and type(inner) is Prune):
    return f"it has no code for the policy {policy}"
  if arrays.limit is not None and type(inner) is Prune:
    return f"it has no code for a limit around {policy}"
  return None


def lynx_route_cpu(
  arrays: RouteArrays,
  *,
  top_k: int,
  policy: RoutingPolicy,
  router: Router,
  tiles: bool,
  instructions: str | None = None,
) -> TiledRouting:
  """`lynx_route` in C++ (pallas_kernels/cpu/src/select_experts.cc)."""
  (rows, experts), run = arrays.logits.shape, policy.experts_per_token(top_k)
  inner, most = (policy.policy, policy.max_active) if isinstance(policy, Budget) else (policy, experts)
  given = _optional(arrays)
  ids, weights, active = cpu_call(
    "select_experts",
    (
      jax.ShapeDtypeStruct((rows, run), jnp.int32),
      jax.ShapeDtypeStruct((rows, run), jnp.float32),
      jax.ShapeDtypeStruct((experts,), jnp.bool_),
    ),
    arrays.logits.astype(jnp.float32),
    arrays.valid,
    *given.values(),
    **dict.fromkeys(given, 1),
    instructions=instructions,
    top_k=top_k,
    unit=1 if arrays.cost is None else cost_unit(experts),
    scoring=SCORINGS.index(router.scoring),
    renormalize=int(router.renormalize),
    unit_weights=int(router.unit_weights),
    scale=float(router.scale),
    groups=router.groups,
    groups_kept=router.groups_kept,
    two_best=int(router.group_score == "top2_sum"),
    rule=_KINDS[type(inner)],
    most=most,
    **_knobs(inner, experts),
  )
  return TiledRouting(ids, weights, active, tile_rows(ids, arrays.valid, experts, DECODE_TILE) if tiles else None)


def _optional(arrays: RouteArrays) -> dict[str, jax.Array]:
  """The arrays that are given beside logits and valid rows, in the order in which the native code reads them."""
  own, cost = arrays.own, None if arrays.cost is None else costs(arrays.cost)
  found = {"bias": arrays.selection_bias, "own": own, "say": None, "cost": cost, "limit": None}
  if arrays.weight is not None:
    found["say"] = says(arrays.weight, arrays.valid if own is None else arrays.valid & ~own)
  if arrays.limit is not None:
    found["limit"] = jnp.asarray(in_units(arrays.limit, arrays.logits.shape[1], cost))
  return {name: array for name, array in found.items() if array is not None}


def _knobs(policy: RoutingPolicy, experts: int) -> dict[str, Any]:
  match policy:
    case OEA(k0):
      return {"first": k0}
    case Lynx(alpha, beta):
      return {"alpha": float(alpha), "lowest": lowest_bin(beta, experts), "votes": counted_bins(beta)}
    case MassFloor(tau):
      return {"slack": 1.0 - tau}
    case Auto(share):
      return {"share": float(share)}
  return {}
