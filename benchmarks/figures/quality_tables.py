"""Tables of what `quality` measured: policies at the same number of experts, and every knob."""

from typing import Any

from rich import box
from rich.table import Table

NAMES = {
  "auto": "Auto", "lynx": "Lynx", "oea": "OEA", "xshare": "XShare", "mass_floor": "MassFloor",
  "budget": "Budget(TopK)", "count_vote": "CountVote", "prune": "Prune",
}  # fmt: skip


def quality_tables(found: dict[str, Any]) -> dict[str, Table]:
  """Policies at equal experts, and every knob; divergences in thousandths of a nat, with intervals of 95 %."""
  of_batches = f"{found['batches']} batches of {found['rows']} rows"
  return {
    "equal_experts": _equal(found, f"Every policy at equal numbers of experts, {of_batches}"),
    "knobs": _knobs(found, f"Every knob, {of_batches}"),
  }


def _equal(found: dict[str, Any], title: str) -> Table:
  names = [name for name in NAMES if name in found["curves"]]
  table = _table(title, "experts", *(NAMES[name] for name in names))
  for row in found["equal"]:
    costs = {name: cost["divergence"] for name, cost in row["costs"].items()}
    least = min((cost[0] for cost in costs.values()), default=0.0)
    cells = [_bold(_thousandths(costs[name]), costs[name][0] == least) if name in costs else "" for name in names]
    table.add_row(f"{row['experts']:.1f}", *cells)
  return table


def _knobs(found: dict[str, Any], title: str) -> Table:
  table = _table(
    title, "policy", "experts", "cross-entropy", "KL, thousandths of a nat", "same top-1", "mass kept", "worst"
  )
  seen = set()
  for name in NAMES:
    for point in found["curves"].get(name, ()):
      if point["policy"] not in seen:
        seen.add(point["policy"])
        value, low, high = point["increase"]
        table.add_row(
          f"`{point['policy']}`", f"{point['experts'][0]:.1f}", f"{value:+.2%} [{low:+.2%}, {high:+.2%}]",
          _thousandths(point["divergence"]), f"{point['agreement'][0]:.1%}", f"{point['retained'][0]:.3f}",
          f"{point['worst_retained']:.3f}",
        )  # fmt: skip
  return table


def _table(title: str, *columns: str) -> Table:
  table = Table(title=title, box=box.MARKDOWN)
  for column in columns:
    table.add_column(column, no_wrap=True)
  return table


def _thousandths(interval: list[float]) -> str:
  value, low, high = (1000 * max(bound, 0.0) for bound in interval)
  return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _bold(text: str, best: bool) -> str:
  return f"**{text}**" if best else text
