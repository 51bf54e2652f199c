"""The whole of routing in one native call on the CPU, where XLA takes a dozen small steps and a loop for it."""

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.select_experts.router import SCORINGS, Router
from pallas_kernels.select_experts.rules import (
  VOTE_BINS,
  AffinityBins,
  FirstChoices,
  Limited,
  MassFloor,
  OwnExperts,
  Rule,
  WorthReading,
  experts_run,
)

# As `KeepRule::Kind` of keep_sets.h counts them.
_KINDS = (OwnExperts, FirstChoices, AffinityBins, MassFloor, WorthReading)


def cpu_objection(*arrays: jax.Array, **options: object) -> str | None:
  """Why the native code cannot run, whatever it is given, or None."""
  return unavailable()


def select_experts_cpu(
  logits: jax.Array,
  valid: jax.Array,
  selection_bias: jax.Array | None = None,
  *,
  top_k: int,
  rule: Rule,
  router: Router,
  instructions: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, Tiles]:
  """`select_experts` in C++ (pallas_kernels/cpu/src/select_experts.cc)."""
  (rows, experts), run = logits.shape, experts_run(rule, top_k)
  inner, most = (rule.rule, rule.most) if isinstance(rule, Limited) else (rule, experts)
  ids, weights, active = cpu_call(
    "select_experts",
    (
      jax.ShapeDtypeStruct((rows, run), jnp.int32),
      jax.ShapeDtypeStruct((rows, run), jnp.float32),
      jax.ShapeDtypeStruct((experts,), jnp.bool_),
    ),
    logits.astype(jnp.float32),
    valid,
    *(() if selection_bias is None else (selection_bias,)),
    instructions=instructions,
    top_k=top_k,
    bias=int(selection_bias is not None),
    scoring=SCORINGS.index(router.scoring),
    renormalize=int(router.renormalize),
    unit_weights=int(router.unit_weights),
    scale=float(router.scale),
    groups=router.groups,
    groups_kept=router.groups_kept,
    two_best=int(router.group_score == "top2_sum"),
    rule=_KINDS.index(type(inner)),
    most=most,
    **_knobs(inner, experts),
  )
  return ids, weights, active, tile_rows(ids, valid, experts, DECODE_TILE)


def _knobs(rule: Rule, experts: int) -> dict[str, Any]:
  match rule:
    case FirstChoices(k0):
      return {"first": k0}
    case AffinityBins(alpha, beta):
      # Bins times experts plus a rank below that stay exact in float32; the last bin's votes follow from the others'.
      deepest = 2**24 // experts - 1
      votes = (VOTE_BINS if beta is None else min(VOTE_BINS, beta + 1)) - 1
      return {"alpha": float(alpha), "lowest": deepest if beta is None else min(beta, deepest), "votes": votes}
    case MassFloor(tau):
      return {"slack": 1.0 - tau}
    case WorthReading(share):
      return {"share": float(share)}
  return {}
