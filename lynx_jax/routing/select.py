"""`lynx_route` for a decode step: in one kernel or native call, which also groups the rows for `expert_ffn`."""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import jax

from lynx_jax.routing.auto import Auto
from lynx_jax.routing.base import Router, Routing, RoutingPolicy
from lynx_jax.routing.lynx import Lynx
from lynx_jax.routing.mass_floor import Budget, MassFloor
from lynx_jax.routing.rivals import OEA, Prune
from lynx_jax.routing.route import lynx_route
from lynx_jax.routing.topk import TopK
from pallas_kernels import select_experts
from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias
from pallas_kernels.dispatch import differentiated_as
from pallas_kernels.expert_ffn import DECODE_TILE, Tiles, tile_rows, tile_rows_for
from pallas_kernels.select_experts import (
  AffinityBins,
  FirstChoices,
  Limited,
  OwnExperts,
  Rule,
  WorthReading,
  cpu_objection,
  objection,
)
from pallas_kernels.select_experts import MassFloor as MassFloorRule
from pallas_kernels.select_experts import Router as KernelRouter


@runtime_checkable
class Route(Protocol):
  """How a layer with experts turns its router's logits into a routing, and the rows of each expert if it knows them."""

  def __call__(
    self,
    logits: RouterLogits,
    top_k: int,
    /,
    *,
    router: Router,
    valid: RowMask,
    selection_bias: SelectionBias | None = None,
  ) -> tuple[Routing, Tiles | None]:
    """Routes the valid rows."""
    ...


def route_to_tiles(
  logits: RouterLogits,
  top_k: int,
  *,
  policy: RoutingPolicy | None = None,
  router: Router,
  valid: RowMask,
  selection_bias: SelectionBias | None = None,
) -> tuple[Routing, Tiles | None]:
  """The same as `lynx_route`, with the rows of each expert where few rows make that worth a kernel.

  On a GPU, `TopK`, `Prune`, `OEA`, `Lynx`, `MassFloor` and `Auto` run in one launch whatever the router, and on a CPU
  in one native call, as does a `Budget` around one of them but `Prune`. Gates and weights may differ from
  `lynx_route`'s in the last bits, and so may a choice that ties but for them: that of experts by biased gates, of
  groups by gates, or the greedy set of a `MassFloor`, a `Budget` or an `Auto`.
  Elsewhere, and for other policies, it is `lynx_route`.
  """

  def route(logits: jax.Array, valid: jax.Array, selection_bias: jax.Array | None = None) -> Routing:
    return lynx_route(logits, top_k, policy=policy, router=router, valid=valid, selection_bias=selection_bias)

  rule = rule_of(policy or TopK())
  options = {"top_k": top_k, "rule": rule, "router": rule_of_router(router)}
  arrays = (logits, valid) if selection_bias is None else (logits, valid, selection_bias)
  rows, experts = logits.shape
  objections = {("cuda", "pallas"): objection, ("cpu", "cpu"): cpu_objection}
  taken = [place for place, object_ in objections.items() if rule is not None and object_(*arrays, **options) is None]
  if not taken or tile_rows_for(rows, top_k, experts) != DECODE_TILE:
    return route(*arrays), None

  def in_one_call(
    logits: jax.Array, valid: jax.Array, selection_bias: jax.Array | None = None, *, implementation: str
  ) -> tuple[Routing, Tiles]:
    given = {"valid": valid, "selection_bias": selection_bias, "implementation": implementation}
    chosen = select_experts(logits, **options, **given)
    return Routing(chosen.ids, chosen.weights, chosen.active), chosen.tiles

  def in_steps(*arrays: jax.Array) -> tuple[Routing, Tiles]:
    routing = route(*arrays)
    return routing, tile_rows(routing.ids, arrays[1], experts, DECODE_TILE)

  runs = {
    platform: differentiated_as(functools.partial(in_one_call, implementation=name), in_steps)
    for platform, name in taken
  }
  return jax.lax.platform_dependent(*arrays, **runs, default=in_steps)


def rule_of_router(router: Router) -> KernelRouter:
  """The kernel's words for `router`."""
  return KernelRouter(**{field.name: getattr(router, field.name) for field in dataclasses.fields(KernelRouter)})


def rule_of(policy: RoutingPolicy) -> Rule | None:
  """The kernel's rule that is `policy`, or None."""
  match policy:
    case TopK():
      return OwnExperts()
    case Prune(k0):
      return OwnExperts(k0)
    case OEA(k0):
      return FirstChoices(k0)
    case Lynx(alpha, beta):
      return AffinityBins(alpha, beta)
    case MassFloor(tau):
      return MassFloorRule(tau)
    case Auto(share):
      return WorthReading(share)
    case Budget(inner, max_active):
      # Limits of limits and of rows that run fewer experts are left to plain JAX.
      rule = None if isinstance(inner, Prune) else rule_of(inner)
      return None if rule is None or isinstance(rule, Limited) else Limited(rule, max_active)
  return None
