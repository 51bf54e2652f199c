"""A decode step's routing: which experts the batch runs, and the rows of each, ready for `expert_ffn`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Implementation, Op
from pallas_kernels.expert_ffn.tiles import Tiles
from pallas_kernels.select_experts.cpu import cpu_objection, select_experts_cpu
from pallas_kernels.select_experts.reference import select_experts_reference
from pallas_kernels.select_experts.router import Router
from pallas_kernels.select_experts.rules import (
  AffinityBins,
  FirstChoices,
  Limited,
  MassFloor,
  OwnExperts,
  Rule,
  WorthReading,
  experts_run,
)
from pallas_kernels.select_experts.triton import objection, select_experts_triton

__all__ = [
  "SELECT_EXPERTS",
  "AffinityBins",
  "FirstChoices",
  "Limited",
  "MassFloor",
  "OwnExperts",
  "Router",
  "Rule",
  "Selection",
  "WorthReading",
  "cpu_objection",
  "experts_run",
  "objection",
  "select_experts",
]

SELECT_EXPERTS = Op(
  "select_experts",
  (
    Implementation("pallas", select_experts_triton, "the whole of routing in one kernel", (GPU,), objection),
    Implementation(
      "cpu",
      select_experts_cpu,
      "the whole of routing in one native call",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
    ),
    Implementation("reference", select_experts_reference, "sorts and unions in plain JAX"),
  ),
)


class Selection(NamedTuple):
  """Which experts each row runs, with what weight, and the rows of each expert.

  Attributes:
    ids: experts of each row, by descending score; a row that does not count repeats experts that are read anyway.
    weights: theirs; zero on rows that do not count.
    active: the experts that some valid row runs.
    tiles: the valid rows of each active expert, in tiles of `DECODE_TILE`, as `expert_ffn` takes them.
  """

  ids: Int32[Array, "T K"]
  weights: Float32[Array, "T K"]
  active: Bool[Array, "E"]
  tiles: Tiles


def select_experts(
  logits: Float[Array, "T E"],
  top_k: int,
  *,
  rule: Rule = OwnExperts(),  # noqa: B008, a frozen value
  router: Router = Router(),  # noqa: B008
  selection_bias: Float32[Array, "E"] | None = None,
  valid: Bool[Array, "T"] | None = None,
  implementation: str | None = None,
) -> Selection:
  """Chooses experts for the rows of a decode batch, and groups the rows by expert.

  Every row runs its best experts by `router`'s choice among those that `rule` keeps, ties to the lowest index; those of
  groups that it may not use only where the others do not suffice. Weights are in proportion to gates, and sum to what
  the model gives the row's own `top_k`. A rule that keeps no fewer experts than rows' own best touch changes nothing.

  Args:
    logits: the router's scores; valid rows hold no NaN.
    top_k: experts that a row runs under the model's own rule.
    rule: which experts the batch may use.
    router: the model's own rule.
    selection_bias: what is added to a sigmoid router's gates where experts are chosen, not where they are weighed.
    valid: rows that count; None takes all. How many do is data.
    implementation: "pallas", "cpu", "reference", or None for the best on the platform.

  Raises:
    ValueError: `top_k` is not between 1 and the experts that a row may use, groups that do not cut E, a bias of another
      router, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  router.check_sizes(logits.shape[1], top_k)
  if selection_bias is not None and router.scoring != "sigmoid":
    raise ValueError(f"selection_bias goes with sigmoid gates, not with {router}: leave it out")
  valid = jnp.ones(logits.shape[:1], bool) if valid is None else valid
  arrays = (logits, valid) if selection_bias is None else (logits, valid, selection_bias)
  return Selection(*SELECT_EXPERTS(implementation, *arrays, top_k=top_k, rule=rule, router=router))
