"""Measures what policies cost by the number of experts that they read, and by the time that a step takes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from benchmarks.figures.plot import COLOURS, drawn
from lynx_jax.evals.compare import best_knobs, summarize
from lynx_jax.evals.frontier import at_equal_experts, measure_frontier
from lynx_jax.models.params import Params
from lynx_jax.routing import format_policy

SHARES = (0.45, 0.5, 0.6, 0.7, 0.8, 0.9)


def measure_quality(
  params: Params, batches: Sequence[Int32[np.ndarray, "B L"]], progress: Callable[[str], None]
) -> dict[str, Any]:
  """Measures every policy at all its knobs, and interpolates to equal numbers of experts."""
  frontier = measure_frontier(
    params, batches, progress=lambda done: progress(f"policies: batch {done + 1} of {len(batches)}")
  )
  return {
    "rows": int(batches[0].shape[0]),
    "batches": len(batches),
    "curves": {
      name: [_point(format_policy(policy), costs) for policy, costs in curve] for name, curve in frontier.items()
    },
    "equal": [
      {"experts": experts, "costs": {name: _cost(cost) for name, cost in costs.items() if cost is not None}}
      for experts, costs in at_equal_experts(frontier, SHARES)
    ],
  }


def _point(policy: str, costs: Any) -> dict[str, Any]:
  found = summarize(costs)
  intervals = {name: getattr(found, name) for name in ("experts", "increase", "divergence", "agreement", "retained")}
  return {
    "policy": policy, "worst_retained": found.worst_retained,
    **{name: [one.value, one.low, one.high] for name, one in intervals.items()},
  }  # fmt: skip


def _cost(cost: Any) -> dict[str, list[float]]:
  return {
    name: [one.value, one.low, one.high] for name, one in (("divergence", cost.divergence), ("increase", cost.increase))
  }


def draw_quality(found: dict[str, Any], path: Path) -> None:
  """Divergence and increase of cross-entropy against experts, one curve a policy."""
  with drawn(path, panels=2) as panels:
    for axes, name, label in (
      (panels[0], "divergence", "KL from the model's own routing, nats a token"),
      (panels[1], "increase", "increase of cross-entropy"),
    ):
      for policy, points in _curves(found):
        places = [point["experts"][0] for point in points]
        values, low, high = np.array([point[name] for point in points]).reshape(-1, 3).T
        axes.errorbar(
          places, values, yerr=[values - low, high - values], color=COLOURS[policy], marker=".", label=policy
        )
      axes.set(xlabel="distinct experts a layer and step", ylabel=label, yscale="log")
    panels[0].legend(fontsize="small")


def draw_trade(found: dict[str, Any], experts: dict[str, Any], path: Path) -> None:
  """Divergence against the time of a decode step, taken from how that model's time depends on the experts read.

  `found` is `measure_quality`'s of one model and `experts` is `latency.measure_experts`'s of one that is bound by
  memory; experts are compared as shares of those that each model's own routing reads.
  """
  rows = sorted(experts["rows"], key=lambda row: row["decode_experts"])
  shares = [row["decode_experts"] / rows[-1]["decode_experts"] for row in rows]
  times = [row["decode_ms"] / rows[-1]["decode_ms"] for row in rows]
  own = max(point["experts"][0] for curve in found["curves"].values() for point in curve)
  with drawn(path) as (axes,):
    for policy, points in _curves(found):
      speed = [1 / np.interp(point["experts"][0] / own, shares, times) for point in points]
      axes.plot(speed, [point["divergence"][0] for point in points], color=COLOURS[policy], marker=".", label=policy)
    axes.set(xlabel="decode speed, of the model's own routing", ylabel="KL, nats a token", yscale="log")
    axes.legend(fontsize="small")


def _curves(found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
  """Points of each policy's best knobs by experts, but for those that cost nothing, which a logarithm cannot show."""
  curves = []
  for name, points in found["curves"].items():
    best = best_knobs([np.array([point["experts"][0], point["divergence"][0]]) for point in points])
    shown = [
      points[index] for index in best if min(points[index]["divergence"][0], points[index]["increase"][0]) > 1e-6
    ]
    curves.append((name, shown))
  return curves
