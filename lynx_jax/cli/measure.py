"""`eval` and `bench`: what policies cost and save."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.bench_engine import add_bench_engine
from lynx_jax.cli.bench_serve import add_bench_serve
from lynx_jax.cli.options import add_model, batches, check_output, load, load_forms, status

if TYPE_CHECKING:
  from lynx_jax.models.params import Params
  from lynx_jax.routing import RoutingPolicy

_EVALUATED = ("topk", "auto", "lynx:alpha=3,beta=2", "oea:k0=2", "prune:k0=2")


def add_commands(verbs: Any) -> None:
  """Adds the commands to the parser's verbs."""
  _add_eval(verbs.add_parser("eval", help="what policies cost: next tokens, multiple choice, exercises"))
  bench = verbs.add_parser("bench", help="measure").add_subparsers(required=True, metavar="WHAT")
  _add_bench_decode(bench.add_parser("decode", help="decode speed of policies, interleaved in one run"))
  add_bench_engine(bench.add_parser("engine", help="the engine under a load, beside fixed batches"))
  add_bench_serve(bench.add_parser("serve", help="a load for any OpenAI server, as its clients see it"))


def _add_bench_decode(parser: argparse.ArgumentParser) -> None:
  add_model(parser, several_weights=True)
  parser.add_argument("--batch", default="1,4,8,16,32", help="numbers of rows, with commas")
  parser.add_argument("--policy", action="append", help="may be repeated; the first is the baseline (default: topk)")
  parser.add_argument("--tokens", choices=("random", "sampled"), default="random", help="what decode steps are fed")
  parser.add_argument("--prompt-length", type=int, default=32, metavar="N")
  parser.add_argument("--steps", type=int, default=32, metavar="N", help="decode steps a repeat")
  parser.add_argument("--repeats", type=int, default=5, metavar="N")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", metavar="FILE", help="write the rows as a list of objects")
  parser.set_defaults(run=_bench_decode)


def _add_eval(parser: argparse.ArgumentParser) -> None:
  add_model(parser)
  parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help=".txt, or .jsonl with source and text")
  parser.add_argument("--choices", nargs="+", default=[], metavar="FILE", help=".jsonl with source, choices and gold")
  parser.add_argument("--exercises", nargs="+", default=[], metavar="FILE", help=".jsonl: source, prompt and answer")
  parser.add_argument("--policy", action="append", help="may be repeated (default: topk, auto, lynx, oea, prune)")
  parser.add_argument("--batch", default="4,8,16,32", help="numbers of rows, with commas (default: 4,8,16,32)")
  parser.add_argument("--mix", default="mixed", help="mixed, one-domain, adversarial, with commas (default: mixed)")
  parser.add_argument(
    "--windows", type=int, default=8, metavar="N", help="batches of text a mix and batch (default: 8)"
  )
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row of text (default: 128)")
  parser.add_argument("--prompt-length", type=int, default=0, metavar="N", help="of these, prefilled (default: 0)")
  parser.add_argument("--limit", type=int, metavar="N", help="questions and exercises a source")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--json", metavar="FILE", help="write the results as one object")
  parser.set_defaults(run=_eval)


def _eval(args: argparse.Namespace) -> None:
  from rich import box
  from rich.console import Console

  from lynx_jax.evals.evaluation import Evaluation, evaluate, tables

  check_output(args)
  evaluation = Evaluation(
    texts=tuple(map(Path, args.text)), choices=tuple(map(Path, args.choices)),
    exercises=tuple(map(Path, args.exercises)), batches=tuple(batches(args.batch)), mixes=tuple(args.mix.split(",")),
    windows=args.windows, length=args.length, prompt_length=args.prompt_length, limit=args.limit, seed=args.seed,
  )  # fmt: skip
  policies = [lynx_jax.parse_policy(text) for text in args.policy or _EVALUATED]
  params = load(args)
  if not args.policy:
    policies = [policy for policy in policies if _applies(policy, params)]
  with status("evaluating") as progress:
    found = evaluate(params, evaluation, policies, progress=progress)
  terminal = sys.stdout.isatty()
  console = Console(width=None if terminal else 180)
  for table in tables(found):
    # In a file, a table that Markdown reads.
    table.box = table.box if terminal else box.MARKDOWN
    console.print(table)
  if args.json:
    from checkpoints_convert.files import write_json

    write_json(Path(args.json), found)


def _applies(policy: "RoutingPolicy", params: "Params") -> bool:
  """Whether a policy's knobs fit the model's number of experts, and of experts a token."""
  try:
    for moe in params.spec.moe_specs:
      policy.check_sizes(moe.experts, moe.top_k)
  except ValueError:
    return False
  return True


def _bench_decode(args: argparse.Namespace) -> None:
  from rich.console import Console

  from lynx_jax.bench.decode import bench_decode
  from lynx_jax.bench.decode_table import bandwidth_line, decode_table, fit_lines
  from pallas_kernels.checks import whole_number

  sizes = batches(args.batch)
  check_output(args)
  whole_number("--seed", args.seed, least=0)
  for name in ("prompt_length", "steps", "repeats"):
    whole_number(f"--{name.replace('_', '-')}", getattr(args, name), least=1)
  policies = [lynx_jax.parse_policy(text) for text in args.policy or ["topk"]]
  models = load_forms(args)
  with status("measuring") as progress:
    rows = list(
      bench_decode(
        models, sizes, policies, tokens=args.tokens, prompt_length=args.prompt_length, steps=args.steps,
        repeats=args.repeats, seed=args.seed, progress=progress,
      )
    )  # fmt: skip
  Console(width=None if sys.stdout.isatty() else 140).print(decode_table(rows))
  for line in filter(None, (bandwidth_line(rows), *fit_lines(rows))):
    print(line)
  if args.json:
    from checkpoints_convert.files import write_json

    write_json(Path(args.json), [dataclasses.asdict(row) for row in rows])
