"""A benchmark's rows as a table for people, and the line that explains them."""

import itertools
from collections.abc import Sequence

import numpy as np
from rich.table import Table

from lynx_jax.bench.decode import Row
from pallas_kernels.cpu import threads_used


def decode_table(rows: Sequence[Row]) -> Table:
  """One line a policy and batch size, and a form of weights where there are several."""
  named = any(row.weights for row in rows)
  table = Table(title="Decode; times are medians, speed-ups against the first line of the batch")
  if named:
    table.add_column("weights", no_wrap=True)
  table.add_column("policy", no_wrap=True)
  for heading in (
    "batch", "tokens/s", "step ms", "experts", "own", "expert MB", "GB/s", "of read", "routing ms", "mass kept",
    "speed-up",
  ):  # fmt: skip
    table.add_column(heading, justify="right")
  for index, row in enumerate(rows):
    last = index + 1 == len(rows) or rows[index + 1].batch != row.batch
    table.add_row(
      *([row.weights] if named else []),
      row.policy,
      str(row.batch),
      f"{row.tokens_per_second:.1f}",
      f"{row.step_ms:.2f}",
      f"{row.active_experts:.1f}",
      f"{row.own_experts:.1f}",
      f"{row.expert_bytes / 1e6:.1f}",
      f"{row.bytes_per_second / 1e9:.1f}",
      "" if row.read_fraction is None else f"{row.read_fraction:.0%}",
      f"{row.routing_ms:.3f}",
      f"{row.retained_mass:.3f}",
      f"{row.speedup:.2f}x",
      end_section=last,
    )
  return table


def bandwidth_line(rows: Sequence[Row]) -> str | None:
  """A line on the read bandwidth that was measured between the decodes, of which "of read" is a share."""
  measured = [row.read_bandwidth / 1e9 for row in rows if row.read_bandwidth is not None]
  if not measured:
    return None
  return f"memory read at {min(measured):.1f} to {max(measured):.1f} GB/s on the same {threads_used()} threads"


def fit_lines(rows: Sequence[Row]) -> list[str]:
  """For each batch size with three or more policies: the least-squares line of step time over experts, and its R^2.

  Each form of weights has a line of its own.
  """
  lines = []
  for (batch, weights), group in itertools.groupby(rows, key=lambda row: (row.batch, row.weights)):
    rows_of_batch = list(group)
    # Times follow from ratios within repeats, which do not change when the machine slows down.
    first = rows_of_batch[0].step_ms * rows_of_batch[0].speedup
    experts, times = np.array([(row.active_experts, first / row.speedup) for row in rows_of_batch]).T
    if len(times) < 3 or np.ptp(experts) == 0 or np.ptp(times) == 0:
      continue
    slope, base = np.polyfit(experts, times, 1)
    explained = np.corrcoef(experts, times)[0, 1] ** 2
    which = f"{weights}, batch {batch}" if weights else f"batch {batch}"
    lines.append(f"{which}: step = {base:.2f} ms + {slope:.3f} ms per expert and layer, R^2 = {explained:.4f}")
  return lines
