"""A decode step's routing: which experts the batch runs, and the rows of each, ready for `expert_ffn`."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32

from pallas_kernels._dispatch import GPU, Implementation, Op
from pallas_kernels.expert_ffn.tiles import Tiles
from pallas_kernels.select_experts.reference import select_experts_reference
from pallas_kernels.select_experts.rules import (
  AffinityBins,
  FirstChoices,
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
  "MassFloor",
  "OwnExperts",
  "Rule",
  "Selection",
  "WorthReading",
  "experts_run",
  "objection",
  "select_experts",
]

SELECT_EXPERTS = Op(
  "select_experts",
  (
    Implementation("pallas", select_experts_triton, "the whole of routing in one kernel", (GPU,), objection),
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
  renormalize: bool = True,
  valid: Bool[Array, "T"] | None = None,
  implementation: str | None = None,
) -> Selection:
  """Chooses experts for the rows of a decode batch, and groups the rows by expert.

  Every row runs its best experts by score among those that `rule` keeps, ties to the lowest index. Weights are the
  softmax over the row's experts. A rule that keeps no fewer experts than the rows' own best touch changes nothing.

  Args:
    logits: the router's scores; valid rows hold no NaN.
    top_k: experts that a row runs under the model's own rule.
    rule: which experts the batch may use.
    renormalize: whether a row's weights sum to 1, or to the softmax mass of its own `top_k`.
    valid: rows that count; None takes all. How many do is data.
    implementation: "pallas", "reference", or None for the best on the platform.

  Raises:
    ValueError: `top_k` is not between 1 and E, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  if not 1 <= top_k <= logits.shape[1]:
    raise ValueError(f"top_k is {top_k}: give a number from 1 to the experts, {logits.shape[1]}")
  valid = jnp.ones(logits.shape[:1], bool) if valid is None else valid
  options = {"top_k": top_k, "rule": rule, "renormalize": renormalize}
  return Selection(*SELECT_EXPERTS(implementation, logits, valid, **options))
