"""Measures and draws the Lynx paper's figures on a model: `python -m benchmarks.figures --text FILE --out DIR`."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures.figure_files import NAMES, Figures, make_figures
from lynx_jax.cli.options import add_model, load, status


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
  add_model(parser)
  parser.add_argument("--out", required=True, metavar="DIR", help="folder for pictures, and what they show as JSON")
  parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text that quality is judged on")
  parser.add_argument("--bench-model", metavar="PATH", help="checkpoint that is timed; --model by default")
  parser.add_argument("--only", metavar="NAME,NAME", help="some of the figures; all by default")
  parser.add_argument("--batch", type=int, default=16, metavar="N", help="rows that decode together (default: 16)")
  parser.add_argument("--windows", type=int, default=8, metavar="N", help="batches of text (default: 8)")
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row of text (default: 128)")
  parser.add_argument("--redraw", action="store_true", help="draw again from the JSON files that are there")
  try:
    _run(parser.parse_args(argv))
  except (ValueError, OSError, ImportError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


def _run(args: argparse.Namespace) -> None:
  if importlib.util.find_spec("matplotlib") is None:
    raise ImportError("figures need matplotlib: pip install 'lynx-jax[plots]'")
  figures = Figures(
    out=Path(args.out), only=tuple(args.only.split(",")) if args.only else NAMES, texts=tuple(map(Path, args.text)),
    batch=args.batch, windows=args.windows, length=args.length, redraw=args.redraw,
  )  # fmt: skip
  bench = argparse.Namespace(model=args.bench_model or args.model, dtype=args.dtype, weights=args.weights)
  with status("figures") as progress:
    for picture in make_figures(lambda: load(args), lambda: load(bench), figures, progress):
      print(picture)


if __name__ == "__main__":
  sys.exit(main())
