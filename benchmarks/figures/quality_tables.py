"""What `quality` measured as Markdown: policies at the same number of experts, and each of their knobs."""

from typing import Any

NAMES = {
  "auto": "Auto", "lynx": "Lynx", "oea": "OEA", "xshare": "XShare", "mass_floor": "MassFloor",
  "budget": "Budget(TopK)", "count_vote": "CountVote", "prune": "Prune",
}  # fmt: skip


def quality_tables(found: dict[str, Any]) -> str:
  """Both tables; divergences in thousandths of a nat, intervals of 95 %."""
  return "\n".join([
    f"{found['rows']} rows a batch, {found['batches']} batches.\n",
    "KL from the model's own routing in thousandths of a nat a token, interpolated to the same number of experts.\n",
    *_equal(found),
    "\nEvery knob.\n",
    *_knobs(found),
    "",
  ])  # fmt: skip


def _equal(found: dict[str, Any]) -> list[str]:
  names = [name for name in NAMES if name in found["curves"]]
  lines = ["| experts | " + " | ".join(NAMES[name] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
  for row in found["equal"]:
    costs = {name: cost["divergence"] for name, cost in row["costs"].items()}
    least = min((cost[0] for cost in costs.values()), default=0.0)
    cells = [_bold(_thousandths(costs[name]), costs[name][0] == least) if name in costs else "" for name in names]
    lines.append(f"| {row['experts']:.1f} | " + " | ".join(cells) + " |")
  return lines


def _knobs(found: dict[str, Any]) -> list[str]:
  lines = [
    "| policy | experts | cross-entropy | KL, thousandths of a nat | same top-1 | mass kept | worst |",
    "|---|---|---|---|---|---|---|",
  ]
  seen = set()
  for name in NAMES:
    for point in found["curves"].get(name, ()):
      if point["policy"] not in seen:
        seen.add(point["policy"])
        value, low, high = point["increase"]
        lines.append(
          f"| `{point['policy']}` | {point['experts'][0]:.1f} | {value:+.2%} [{low:+.2%}, {high:+.2%}] "
          f"| {_thousandths(point['divergence'])} | {point['agreement'][0]:.1%} | {point['retained'][0]:.3f} "
          f"| {point['worst_retained']:.3f} |"
        )
  return lines


def _thousandths(interval: list[float]) -> str:
  value, low, high = (1000 * max(bound, 0.0) for bound in interval)
  return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _bold(text: str, best: bool) -> str:
  return f"**{text}**" if best else text
