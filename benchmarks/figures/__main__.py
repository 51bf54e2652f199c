"""Measures and draws the Lynx paper's figures on a model, and tabulates what policies cost at equal experts.

    python -m benchmarks.figures --text .work/evaluation/text.jsonl --out docs/figures
    python -m benchmarks.figures --bench-model .work/905m --only batch_latency,expert_latency,trade --out docs/figures

Needs matplotlib (the extra `plots`). Times go with the machine; quality does not.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.figures.figure_files import NAMES, Figures, make_figures, read_figure
from benchmarks.figures.quality_tables import quality_tables
from benchmarks.results import add_result_options, keep
from lynx_jax.cli.options import add_model, load, status

_ABOUT = (
  "KL from the model's own routing in thousandths of a nat a token, with 95 % intervals; between a policy's knobs it "
  "is interpolated to the same number of experts. The best of each row is bold."
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  add_model(parser)
  parser.add_argument("--out", required=True, metavar="DIR", help="folder for pictures, and what they show as JSON")
  parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text that quality is judged on")
  parser.add_argument("--bench-model", metavar="PATH", help="checkpoint that is timed; --model by default")
  parser.add_argument("--only", metavar="NAME,NAME", help="some of the figures; all by default")
  parser.add_argument("--batch", type=int, default=16, metavar="N", help="rows that decode together (default: 16)")
  parser.add_argument("--windows", type=int, default=8, metavar="N", help="batches of text (default: 8)")
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row of text (default: 128)")
  parser.add_argument("--redraw", action="store_true", help="draw again from the JSON files that are there")
  add_result_options(parser)
  args = parser.parse_args(argv)
  try:
    _run(args)
    if "quality" in _names(args):
      for name, table in quality_tables(read_figure(Path(args.out), "quality")).items():
        Console(width=240).print(table)
        keep(args, table, argv, module="benchmarks.figures", name=name, about=_ABOUT)
  except (ValueError, OSError, ImportError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def _run(args: argparse.Namespace) -> None:
  if importlib.util.find_spec("matplotlib") is None:
    raise ImportError("figures need matplotlib: pip install 'lynx-jax[plots]'")
  figures = Figures(
    out=Path(args.out), only=_names(args), texts=tuple(map(Path, args.text)),
    batch=args.batch, windows=args.windows, length=args.length, redraw=args.redraw,
  )  # fmt: skip
  bench = argparse.Namespace(model=args.bench_model or args.model, dtype=args.dtype, weights=args.weights)
  with status("figures") as progress:
    for picture in make_figures(lambda: load(args), lambda: load(bench), figures, progress):
      print(picture)


def _names(args: argparse.Namespace) -> tuple[str, ...]:
  return tuple(args.only.split(",")) if args.only else NAMES


if __name__ == "__main__":
  sys.exit(main())
