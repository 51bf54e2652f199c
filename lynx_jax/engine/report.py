"""Routing statistics of a finished decode, on the host and ready to print."""

import dataclasses

import numpy as np

from lynx_jax.engine.state import RoutingTotals
from lynx_jax.engine.step_log import RoutingSums
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.sizes import expert_bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoutingReport:
  """What a policy did over the decode steps of a batch. Tuples have one entry for each MoE layer.

  Attributes:
    steps: decode steps counted.
    rows: mean running rows a step.
    active_experts: mean distinct experts run in a step.
    own_experts: mean distinct experts of the model's own routing, at the same router logits.
    retained_mass: mean over rows of the probability kept; 1 is unchanged.
    worst_retained_mass: the smallest of any row.
    expert_bytes: expert weights read in a step, all layers, in bytes.
    own_expert_bytes: the same under the model's own routing.
  """

  steps: int
  rows: float
  active_experts: tuple[float, ...]
  own_experts: tuple[float, ...]
  retained_mass: tuple[float, ...]
  worst_retained_mass: tuple[float, ...]
  expert_bytes: float
  own_expert_bytes: float

  def __str__(self) -> str:
    active, own = np.mean(self.active_experts), np.mean(self.own_experts)
    less = 1 - self.expert_bytes / self.own_expert_bytes if self.own_expert_bytes else 0.0
    return (
      f"distinct experts per layer and step: {active:.1f} (the model's own routing: {own:.1f}); "
      f"expert bytes per step: {self.expert_bytes / 1e6:.2f} MB, {less:.0%} less; "
      f"retained mass: mean {np.mean(self.retained_mass):.3f}, worst row {min(self.worst_retained_mass):.3f} "
      f"({self.steps} steps, {self.rows:.1f} rows)"
    )


def report(totals: RoutingTotals | RoutingSums, decoder: Decoder) -> RoutingReport | None:
  """Means of `totals`; None where no decode step ran or no layer has experts."""
  steps, rows = int(totals.steps), int(totals.rows)
  sizes = np.array(expert_bytes(decoder))
  if steps == 0 or sizes.size == 0:
    return None
  active, own = np.asarray(totals.active) / steps, np.asarray(totals.own_active) / steps
  return RoutingReport(
    steps=steps,
    rows=rows / steps,
    active_experts=tuple(active.tolist()),
    own_experts=tuple(own.tolist()),
    retained_mass=tuple((np.asarray(totals.retained) / rows).tolist()),
    worst_retained_mass=tuple(np.asarray(totals.worst_retained).tolist()),
    expert_bytes=float(active @ sizes),
    own_expert_bytes=float(own @ sizes),
  )
