"""A decode step with int8 weights beside one with the checkpoint's own, in turns in one run.

python -m lynx_jax.testing.random_checkpoint .work/905m
python -m benchmarks.int8_step_time .work/905m --batch 1,4,8
"""

import argparse
import dataclasses
import functools
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import lynx_jax
from benchmarks.results import add_result_options, keep
from checkpoints_convert.files import write_json
from lynx_jax.bench.fed_decode import FedDecode
from lynx_jax.models.params import Params
from pallas_kernels.cpu import threads_used


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Int8StepTime:
  """One batch size: median times of a decode step, and the median of their ratios within a repeat."""

  batch: int
  own_ms: float
  int8_ms: float
  speedup: float


def int8_step_times(
  own: Params, int8: Params, batches: Sequence[int], *, length: int = 32, steps: int = 16, repeats: int = 5
) -> Iterator[Int8StepTime]:
  """Decodes random tokens under the model's own routing with both; yields a batch size when it is measured.

  Args:
    own: the model in its own dtype.
    int8: the same model with int8 weights.
    batches: numbers of rows.
    length: tokens of each prompt.
    steps: decode steps a repeat.
    repeats: of both.
  """
  for batch in batches:
    runs = [FedDecode(params, batch, lynx_jax.TopK(), length=length, steps=steps) for params in (own, int8)]
    for run in runs:
      run.warm_up()
    times = [[run.seconds() / steps * 1e3 for run in runs] for _ in range(repeats)]
    yield Int8StepTime(
      batch=batch,
      own_ms=statistics.median(before for before, _ in times),
      int8_ms=statistics.median(after for _, after in times),
      speedup=statistics.median(before / after for before, after in times),
    )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("model", type=Path, help="a checkpoint directory")
  parser.add_argument("--batch", default="1,4,8", help="batch sizes (default: %(default)s)")
  whole = functools.partial(parser.add_argument, type=int)
  whole("--steps", default=16, help="decode steps a repeat (default: %(default)s)")
  whole("--repeats", default=5, help="(default: %(default)s)")
  parser.add_argument("--json", type=Path, help="write the rows there")
  add_result_options(parser)
  args = parser.parse_args(argv)
  table = Table(title=f"A decode step, ms, on {threads_used()} threads; medians")
  for heading in ("batch", "own dtype", "int8", "speed-up"):
    table.add_column(heading, justify="right")
  try:
    batches = [int(one) for one in args.batch.split(",")]
    models = lynx_jax.load(args.model), lynx_jax.load(args.model, weights="int8")
    rows = []
    for row in int8_step_times(*models, batches, steps=args.steps, repeats=args.repeats):
      rows.append(row)
      table.add_row(str(row.batch), f"{row.own_ms:.2f}", f"{row.int8_ms:.2f}", f"{row.speedup:.2f}x")
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  if args.json:
    write_json(args.json, [dataclasses.asdict(row) for row in rows])
  Console().print(table)
  about = (
    "A decode step with int8 weights beside one with bfloat16 weights, in turns: medians, and the median of ratios."
  )
  keep(args, table, argv, module="benchmarks.int8_step_time", name="int8_step_time", about=about)
  return 0


if __name__ == "__main__":
  sys.exit(main())
