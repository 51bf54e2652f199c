"""Routing at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.lynx_route import (
  OEA,
  Auto,
  Lynx,
  MassFloor,
  Prune,
  Router,
  RoutingPolicy,
  TopK,
  lynx_route_tiles,
)

Program = tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]

POLICIES: dict[str, RoutingPolicy] = {
  "topk": TopK(),
  "prune": Prune(1),
  "oea": OEA(2),
  "lynx": Lynx(3, 2),
  "mass_floor": MassFloor(0.7),
  "auto": Auto(),
}

# Rows, experts, experts a row, the router, whether it has a selection bias.
ROUTERS: dict[str, tuple[int, int, int, Router, bool]] = {
  "DeepSeek-V3": (
    32, 256, 8, Router("sigmoid", scale=2.5, groups=8, groups_kept=4, group_score="top2_sum"), True,
  ),
  "DeepSeek-V2": (32, 160, 6, Router(renormalize=False, scale=16.0, groups=8, groups_kept=3), False),
  "Llama-4-Maverick": (64, 128, 1, Router("sigmoid", renormalize=False), False),
  "Llama-4-Scout": (64, 16, 1, Router("sigmoid", renormalize=False), False),
  "Phi-3.5-MoE": (64, 16, 2, Router("sparsemixer", renormalize=False), False),
}  # fmt: skip


def programs(shape: ModelShape) -> dict[str, Program]:
  """Each policy over 16 rows and over 64; the greedy ones over 16 alone, which a block holds for any model."""
  return {
    f"{name}, T={rows}": routing(rows, shape.experts, shape.top_k, policy, Router(renormalize=shape.renormalize))
    for rows in (16, 64)
    for name, policy in POLICIES.items()
    if rows == 16 or name not in ("mass_floor", "auto")
  }


def programs_with_terms(shape: ModelShape) -> dict[str, Program]:
  """Rows that run their own experts among 64, and all terms of `lynx_route` over 16, under policies of each kind."""
  route = functools.partial(
    routing, experts=shape.experts, top_k=shape.top_k, router=Router(renormalize=shape.renormalize)
  )
  made = {"lynx, own, T=64": route(64, policy=POLICIES["lynx"], terms=("own",))}
  for name in ("topk", "lynx", "auto"):
    made[f"{name}, all terms, T=16"] = route(16, policy=POLICIES[name], terms=("own", "weight", "cost", "limit"))
  return made


def programs_of_router(model: str, policies: tuple[str, ...]) -> dict[str, Program]:
  """The named policies under a router that is more than a softmax, over the rows of the table."""
  rows, experts, top_k, router, biased = ROUTERS[model]
  return {
    f"{name}, T={rows}": routing(rows, experts, top_k, POLICIES[name], router, biased=biased) for name in policies
  }


def routing(
  rows: int,
  experts: int,
  top_k: int,
  policy: RoutingPolicy,
  router: Router,
  *,
  biased: bool = False,
  terms: tuple[str, ...] = (),
) -> Program:
  """Routing of `rows` rows over `experts` experts, some rows invalid, with the rows grouped by expert."""
  optional = {
    "selection_bias": jax.ShapeDtypeStruct((experts,), jnp.float32),
    "own": jax.ShapeDtypeStruct((rows,), jnp.bool_),
    "weight": jax.ShapeDtypeStruct((rows,), jnp.float32),
    "cost": jax.ShapeDtypeStruct((experts,), jnp.float32),
    "limit": jax.ShapeDtypeStruct((), jnp.float32),
  }
  given = ("selection_bias", *terms) if biased else terms
  fn = functools.partial(_route, names=given, top_k=top_k, policy=policy, router=router)
  args = jax.ShapeDtypeStruct((rows, experts), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.bool_)
  return fn, (*args, *(optional[name] for name in given))


def _route(
  logits: Any, valid: Any, *arrays: Any, names: tuple[str, ...], top_k: int, policy: RoutingPolicy, router: Router
) -> Any:
  given = dict(zip(names, arrays, strict=True))
  chosen = lynx_route_tiles(logits, top_k, policy=policy, router=router, valid=valid, **given)
  return chosen.ids, chosen.weights, chosen.tiles
