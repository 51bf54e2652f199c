"""Estimates as tables for people."""

from collections.abc import Sequence

from rich.table import Table

from lynx_jax.estimate.published import Check
from lynx_jax.estimate.roofline import StepSize, StepTime


def estimate_table(title: str, size: StepSize, times: Sequence[StepTime], batch: int) -> Table:
  """One line a number of experts; speed-ups are against the first."""
  table = Table(title=title)
  for heading in (
    "experts", "expert MB", "experts ms", "weights ms", "cache ms", "launches ms", "collectives ms", "step ms",
    "tokens/s", "speed-up",
  ):  # fmt: skip
    table.add_column(heading, justify="right")
  for time in times:
    parts = (time.experts, time.weights, time.cache, time.launches, time.collectives, time.total)
    table.add_row(
      f"{time.active:.1f}",
      f"{time.active * size.moe_layers * size.expert_bytes / 1e6:.0f}",
      *(f"{part:.3f}" for part in parts),
      f"{1e3 * batch / time.total:.0f}",
      f"{times[0].total / time.total:.2f}x",
    )
  return table


def checks_table(checks: Sequence[Check]) -> Table:
  """One line a published figure."""
  table = Table(title="The estimate beside published figures; an error is the distance to the range")
  table.add_column("figure")
  for heading in ("published", "estimate", "error"):
    table.add_column(heading, justify="right", no_wrap=True)
  for check in checks:
    published = f"{check.low:g}" if check.low == check.high else f"{check.low:g} to {check.high:g}"
    table.add_row(check.what, f"{published} {check.unit}", f"{check.estimate:.2f}", f"{100 * check.error:+.1f} %")
  return table
