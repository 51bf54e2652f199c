"""Measures how many bytes of weights a second native products process, by number of rows, from cache and from memory.

    python -m benchmarks.kernels.product_bandwidth --rows 1,2,3,4,6,8,16,32

From a cache, arithmetic is the bound. Where that rate is far above the memory's bandwidth, a decode step takes the time
to read its weights. Rates are medians of short runs in turns.
"""

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.results import add_result_options, keep
from pallas_kernels.cpu import describe, product_speed, read_bandwidth, unavailable

CACHED, IN_MEMORY = 1 << 17, 1 << 28
"""Bytes of weights: what every processor's own cache holds, and what none does."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProductBandwidth:
  """Bytes of weights a second that all threads together process, for one number of rows."""

  rows: int
  cached: float
  from_memory: float
  read: float

  @property
  def share(self) -> float:
    """The rate from memory as a share of plain reading, which is measured right before."""
    return self.from_memory / self.read


def product_bandwidths(
  rows: Sequence[int], *, weights: str = "bfloat16", inner: int = 1024, repeats: int = 5, read: int = IN_MEMORY
) -> Iterator[ProductBandwidth]:
  """Yields a number of rows when it is measured.

  Args:
    rows: numbers of rows.
    weights: bfloat16, float32 or int8.
    inner: inputs of an output.
    repeats: runs of each, of which medians are taken.
    read: bytes of weights a run goes through.

  Raises:
    RuntimeError: there is no native library.
  """
  if (reason := unavailable()) is not None:
    raise RuntimeError(reason)

  def speed(count: int, size: int) -> float:
    return product_speed(count, weights=weights, inner=inner, size=size, read=read) or 0.0

  for count in rows:
    runs = [(speed(count, CACHED), read_bandwidth(read, 1) or 0.0, speed(count, read)) for _ in range(repeats)]
    cached, plain, memory = (statistics.median(one) for one in zip(*runs, strict=True))
    yield ProductBandwidth(rows=count, cached=cached, from_memory=memory, read=plain)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", default="1,2,3,4,5,6,8,16,32", help="numbers of rows (default: %(default)s)")
  parser.add_argument("--weights", default="bfloat16", help="bfloat16, float32 or int8 (default: %(default)s)")
  parser.add_argument("--inner", type=int, default=1024, help="inputs of an output (default: %(default)s)")
  parser.add_argument("--repeats", type=int, default=5, help="(default: %(default)s)")
  add_result_options(parser)
  args = parser.parse_args(argv)
  table = Table(title=f"GB/s of {args.weights} weights: {describe()}")
  for heading in ("rows", "from a cache", "from memory", "plain reading", "of plain reading"):
    table.add_column(heading, justify="right")
  try:
    rows = [int(one) for one in args.rows.split(",")]
    for found in product_bandwidths(rows, weights=args.weights, inner=args.inner, repeats=args.repeats):
      rates = (f"{rate / 1e9:.1f}" for rate in (found.cached, found.from_memory, found.read))
      table.add_row(str(found.rows), *rates, f"{found.share:.0%}")
  except (ValueError, RuntimeError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  Console(width=None if sys.stdout.isatty() else 100).print(table)
  about = (
    "GB/s of weights that native products go through, by the rows that meet each weight: from a cache, where "
    "arithmetic is the bound, and from memory."
  )
  name = f"product_bandwidth_{args.weights}_{args.inner}"
  keep(args, table, argv, module="benchmarks.kernels.product_bandwidth", name=name, about=about)
  return 0


if __name__ == "__main__":
  sys.exit(main())
