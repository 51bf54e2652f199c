"""Routing at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.select_experts import (
  AffinityBins,
  FirstChoices,
  MassFloor,
  OwnExperts,
  Rule,
  WorthReading,
  select_experts,
)

Program = tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]

RULES: dict[str, Rule] = {
  "topk": OwnExperts(),
  "prune": OwnExperts(1),
  "oea": FirstChoices(2),
  "lynx": AffinityBins(3.0, 2),
  "mass_floor": MassFloor(0.7),
  "auto": WorthReading(0.5),
}


def programs(shape: ModelShape) -> dict[str, Program]:
  """Each rule over 16 rows and over 64; greedy ones over 16 alone, which is what a block holds of any model."""
  return {
    f"{name}, T={rows}": routing(rows, shape.experts, shape.top_k, rule, shape.renormalize)
    for rows in (16, 64)
    for name, rule in RULES.items()
    if rows == 16 or name not in ("mass_floor", "auto")
  }


def routing(rows: int, experts: int, top_k: int, rule: Rule, renormalize: bool) -> Program:
  """Routing of so many rows over so many experts, with rows that do not count."""
  fn = functools.partial(_route, top_k=top_k, rule=rule, renormalize=renormalize)
  return fn, (jax.ShapeDtypeStruct((rows, experts), jnp.float32), jax.ShapeDtypeStruct((rows,), jnp.bool_))


def _route(logits: Any, valid: Any, *, top_k: int, rule: Rule, renormalize: bool) -> Any:
  chosen = select_experts(logits, top_k, rule=rule, renormalize=renormalize, valid=valid)
  return chosen.ids, chosen.weights, chosen.tiles
