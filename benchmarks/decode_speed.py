"""Decode speed of policies on one model, as `lynx-jax bench decode` measures it, kept among the results.

python -m lynx_jax.testing.random_checkpoint .work/905m
python -m benchmarks.decode_speed .work/905m --batch 1,4,8,16,32 --results docs/results --machine zen5
python -m benchmarks.decode_speed .work/905m --batch 16 --policy topk --policy auto --policy oea:k0=1 --name policies
python -m benchmarks.decode_speed .work/905m --batch 1,8 --weights bf16,int8,int4 --name weights
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import lynx_jax
from benchmarks.results import add_result_options, keep
from lynx_jax.bench.decode import bench_decode
from lynx_jax.bench.decode_table import bandwidth_line, decode_table, fit_lines
from lynx_jax.cli.options import form_named

_ABOUT = (
  "Decode steps of random tokens after prompts of random tokens; times are medians, speed-ups are medians of ratios "
  "within a repeat. *Of read* is the share of plain reading that a step's weights reach."
)


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("model", type=Path, help="a checkpoint directory")
  parser.add_argument("--batch", default="1,4,8,16,32", help="numbers of rows (default: %(default)s)")
  parser.add_argument("--policy", action="append", help="may be repeated; the first is the baseline (default: topk)")
  parser.add_argument("--weights", default="", help="forms, such as bf16,int8,int4 (default: its own)")
  parser.add_argument("--name", default="decode", help="of the table among the results (default: %(default)s)")
  whole = functools.partial(parser.add_argument, type=int)
  whole("--prompt-length", default=32, help="tokens (default: %(default)s)")
  whole("--steps", default=32, help="decode steps a repeat (default: %(default)s)")
  whole("--repeats", default=9, help="(default: %(default)s)")
  add_result_options(parser)
  args = parser.parse_args(argv)
  err = Console(stderr=True)
  try:
    batches = [int(one) for one in args.batch.split(",")]
    policies = [lynx_jax.parse_policy(text) for text in args.policy or ["topk"]]
    sizes = {"prompt_length": args.prompt_length, "steps": args.steps, "repeats": args.repeats}
    models = {name: lynx_jax.load(args.model, **form_named(name)) for name in args.weights.split(",")}
    rows = list(bench_decode(models, batches, policies, **sizes, progress=err.print))
  except (ValueError, OSError) as error:
    err.print(f"error: {error}")
    return 2
  table = decode_table(rows)
  Console(width=140).print(table)
  lines = list(filter(None, (bandwidth_line(rows), *fit_lines(rows))))
  print("\n".join(lines))
  about = "\n".join([_ABOUT, *(f"{line[0].upper()}{line[1:]}." for line in lines)])
  keep(args, table, argv, module="benchmarks.decode_speed", name=args.name, about=about)
  return 0


if __name__ == "__main__":
  sys.exit(main())
