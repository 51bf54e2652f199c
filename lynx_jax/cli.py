"""The command line `lynx-jax`: generate, chat, convert, info, estimate, eval, figures, bench decode."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import lynx_jax
from lynx_jax.platforms import settle_platform

if TYPE_CHECKING:
  from lynx_jax.generation import Piece
  from lynx_jax.models.params import Params

_EVALUATED = ("topk", "auto", "lynx:alpha=3,beta=2", "oea:k0=2", "prune:k0=2")
_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs one command and exits: 0 on success, 2 on bad input (one line on standard error), 130 on Ctrl-C."""
  args = _parser().parse_args(argv)
  settle_platform()
  try:
    args.run(args)
    sys.stdout.flush()
  except KeyboardInterrupt:
    sys.exit(130)
  except BrokenPipeError:
    # The reader left; without this, Python complains again when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)
  except _EXPECTED as error:
    print(f"lynx-jax: error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)
  sys.exit(0)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="lynx-jax", description="Batched Mixture-of-Experts inference in JAX.")
  parser.add_argument("--version", action="version", version=f"lynx_jax {lynx_jax.__version__}")
  verbs = parser.add_subparsers(required=True, metavar="COMMAND")

  generate = verbs.add_parser("generate", help="complete prompts as one batch")
  generate.add_argument("prompt", nargs="*", help="prompts; with none, one a line from standard input")
  generate.add_argument("--prompts", metavar="FILE", help="UTF-8 file with one prompt a line; - is standard input")
  generate.add_argument("--json", action="store_true", help="print one JSON object a prompt, in order")
  _add_decoding(generate)
  generate.set_defaults(run=_generate)

  chat = verbs.add_parser("chat", help="talk to a model that has a chat template")
  _add_decoding(chat)
  chat.set_defaults(run=_chat)

  convert = verbs.add_parser("convert", help="convert a Hugging Face directory")
  convert.add_argument("source")
  convert.add_argument("destination")
  convert.add_argument("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default")
  convert.add_argument("--to", choices=("orbax", "hf"), default="orbax", help="form to write (default: orbax)")
  convert.add_argument("--force", action="store_true", help="replace an existing destination")
  convert.set_defaults(run=_convert)

  info = verbs.add_parser("info", help="describe a checkpoint: configuration, parameters, bytes per token")
  info.add_argument("path", nargs="?", help="a checkpoint directory; the embedded model by default")
  info.set_defaults(run=_info)

  estimate = verbs.add_parser("estimate", help="a decode step's time on a GPU, from a configuration alone")
  what = estimate.add_mutually_exclusive_group(required=True)
  what.add_argument(
    "--config", metavar="FILE", help="a config.json, or the name of a released model: Qwen3-30B-A3B, ..."
  )
  what.add_argument("--check", action="store_true", help="print the estimate beside published measurements")
  estimate.add_argument("--gpu", choices=("a100", "h100", "h200"), default="h100")
  estimate.add_argument("--batch", type=int, default=16, metavar="N", help="rows (default: 16)")
  estimate.add_argument("--active", metavar="N,N", help="distinct experts a layer, the first without a policy")
  estimate.add_argument("--context", type=int, default=1024, metavar="N", help="tokens in the cache (default: 1024)")
  estimate.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs that share each layer (default: 1)")
  estimate.set_defaults(run=_estimate)

  _add_eval(verbs.add_parser("eval", help="what policies cost: next tokens, multiple choice, exercises"))

  _add_figures(verbs.add_parser("figures", help="measure and draw the Lynx paper's figures on a model"))

  bench = verbs.add_parser("bench", help="measure").add_subparsers(required=True, metavar="WHAT")
  _add_bench_decode(bench.add_parser("decode", help="decode speed of policies, interleaved in one run"))
  return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--model", metavar="PATH", help="checkpoint directory; the embedded model by default")
  parser.add_argument("--dtype", help="bfloat16, float16 or float32; the checkpoint's by default")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
  _add_model(parser)
  parser.add_argument("--policy", default="topk", help="topk, lynx:alpha=3,beta=2, oea:k0=2, ... (default: topk)")
  parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
  parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
  parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off (default)")
  parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 is off (default)")
  parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="0 is off (default)")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends a row; may be repeated")
  parser.add_argument("--stats", action="store_true", help="print distinct experts with and without the policy")


def _add_bench_decode(parser: argparse.ArgumentParser) -> None:
  _add_model(parser)
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
  _add_model(parser)
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


def _add_figures(parser: argparse.ArgumentParser) -> None:
  _add_model(parser)
  parser.add_argument("--out", required=True, metavar="DIR", help="folder for pictures, and what they show as JSON")
  parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="text that quality is judged on")
  parser.add_argument("--bench-model", metavar="PATH", help="checkpoint that is timed; --model by default")
  parser.add_argument("--only", metavar="NAME,NAME", help="some of the figures; all by default")
  parser.add_argument("--batch", type=int, default=16, metavar="N", help="rows that decode together (default: 16)")
  parser.add_argument("--windows", type=int, default=8, metavar="N", help="batches of text (default: 8)")
  parser.add_argument("--length", type=int, default=128, metavar="N", help="tokens a row of text (default: 128)")
  parser.add_argument("--redraw", action="store_true", help="draw again from the JSON files that are there")
  parser.set_defaults(run=_figures)


@contextlib.contextmanager
def _status(message: str) -> Iterator[Callable[[str], None]]:
  """A spinner on standard error while work goes on; silent where that is not a terminal."""
  from rich.console import Console

  console = Console(stderr=True)
  if not console.is_terminal:
    yield lambda message: None
    return
  with console.status(message) as status:
    yield status.update


def _load(args: argparse.Namespace) -> "Params":
  with _status(f"loading {args.model or 'the embedded model'}"):
    return lynx_jax.load(args.model, dtype=args.dtype)


def _decoding(args: argparse.Namespace) -> dict:
  """Keyword arguments of `stream` from the flags, checked before any weight is read."""
  return {
    "policy": lynx_jax.parse_policy(args.policy),
    "sampling": lynx_jax.Sampling(
      temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p, seed=args.seed
    ),
    "max_new_tokens": args.max_new_tokens,
    "stop": args.stop,
    "stats": args.stats,
  }


def _generate(args: argparse.Namespace) -> None:
  options = _decoding(args)
  prompts = _prompts(args)
  params = _load(args)
  pieces = lynx_jax.stream(params, prompts, **options)
  report = _print_json(pieces, prompts) if args.json else _print_text(pieces, prompts)
  if args.stats:
    print(f"{args.policy}: {report or 'no decode step ran'}", file=sys.stderr)


def _prompts(args: argparse.Namespace) -> list[str]:
  if args.prompt and args.prompts:
    raise ValueError("prompts were given both as arguments and as --prompts: give one of them")
  if args.prompt:
    return args.prompt
  source = args.prompts or "-"
  if source == "-" and args.prompts is None and sys.stdin.isatty():
    raise ValueError("no prompt: give prompts as arguments, with --prompts FILE, or on standard input")
  data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
  where = "standard input" if source == "-" else source
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{where} is not UTF-8 (byte {error.start} is {data[error.start]:#04x}): save it as UTF-8"
    ) from error
  prompts = [line for line in text.splitlines() if line.strip()]
  if not prompts:
    raise ValueError(f"{where} holds no prompt: write one a line")
  return prompts


def _print_text(pieces: "Iterator[Piece]", prompts: list[str]) -> object:
  """Prints rows in order, the first unfinished one live; returns the statistics."""
  held, ended, live, report = [""] * len(prompts), [False] * len(prompts), 0, None
  print(prompts[0], end="", flush=True)
  for piece in pieces:
    held[piece.row] += piece.text
    ended[piece.row] = piece.finish_reason is not None
    report = piece.stats or report
    while live < len(prompts):
      print(held[live], end="", flush=True)
      held[live] = ""
      if not ended[live]:
        break
      live += 1
      print("\n\n" + prompts[live] if live < len(prompts) else "\n", end="", flush=True)
  return report


def _print_json(pieces: "Iterator[Piece]", prompts: list[str]) -> object:
  texts, tokens = [""] * len(prompts), [[] for _ in prompts]
  reasons: list[str | None] = [None] * len(prompts)
  report = None
  for piece in pieces:
    texts[piece.row] += piece.text
    tokens[piece.row] += piece.token_ids
    reasons[piece.row] = piece.finish_reason
    report = piece.stats or report
  for prompt, text, ids, reason in zip(prompts, texts, tokens, reasons, strict=True):
    print(json.dumps({"prompt": prompt, "text": text, "token_ids": ids, "finish_reason": reason}))
  return report


def _chat(args: argparse.Namespace) -> None:
  options = _decoding(args)
  params = _load(args)
  if params.tokenizer is None:
    raise ValueError("this checkpoint has no tokenizer: chat needs one")
  params.tokenizer.apply_chat([{"role": "user", "content": ""}])
  if sys.stdin.isatty():
    print("Type a message; /reset starts over, /exit ends.", file=sys.stderr)
  messages: list[dict[str, str]] = []
  while (line := _read_line()) is not None and line.strip() != "/exit":
    if line.strip() == "/reset":
      messages = []
    elif line.strip():
      messages.append({"role": "user", "content": line})
      reply = ""
      # The template has written the special tokens already.
      prompt = params.tokenizer.encode(params.tokenizer.apply_chat(messages), add_special_tokens=False)
      for piece in lynx_jax.stream(params, [prompt], **options):
        print(piece.text, end="", flush=True)
        reply += piece.text
        if piece.stats is not None:
          print(f"\n{args.policy}: {piece.stats}", file=sys.stderr)
      print()
      messages.append({"role": "assistant", "content": reply})


def _read_line() -> str | None:
  try:
    return input("> " if sys.stdin.isatty() else "")
  except EOFError:
    return None


def _convert(args: argparse.Namespace) -> None:
  from checkpoints_convert import convert
  from checkpoints_convert.progress import bars

  with bars() as report:
    convert(args.source, args.destination, dtype=args.dtype, to=args.to, force=args.force, report=report)
  print(f"wrote {args.destination}")


def _info(args: argparse.Namespace) -> None:
  from rich.console import Console
  from rich.table import Table

  from lynx_jax.info import describe

  table = Table(show_header=False, box=None)
  for name, value in describe(args.path):
    table.add_row(name, value)
  Console().print(table)


def _estimate(args: argparse.Namespace) -> None:
  from rich.console import Console

  from lynx_jax.bench.estimate import GPUS, estimates, step_size
  from lynx_jax.bench.estimate_table import checks_table, estimate_table
  from lynx_jax.bench.published import checks
  from lynx_jax.bench.released import RELEASED
  from lynx_jax.models.families import spec_from_config

  console = Console(width=None if sys.stdout.isatty() else 140)
  if args.check:
    console.print(checks_table(checks()))
    return
  for name in ("batch", "context", "gpus"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name} is {getattr(args, name)}: expected at least 1")
  config = RELEASED[args.config] if args.config in RELEASED else json.loads(Path(args.config).read_text("utf-8"))
  size = step_size(spec_from_config(config))
  try:
    active = [float(part) for part in args.active.split(",")] if args.active else [size.likely_experts(args.batch)]
  except ValueError as error:
    raise ValueError(f"--active is {args.active!r}: expected numbers with commas, such as 48.8,25.1") from error
  times = estimates(size, GPUS[args.gpu], active, batch=args.batch, context=args.context, gpus=args.gpus)
  machine = args.gpu.upper() if args.gpus == 1 else f"{args.gpus} {args.gpu.upper()}"
  title = f"{args.config} on {machine}: a decode step of {args.batch} rows, {args.context} tokens each, bfloat16"
  console.print(estimate_table(title, size, times, args.batch))
  if not args.active:
    print("Experts: tokens that choose independently and evenly. Real text touches fewer; give --active.")


def _eval(args: argparse.Namespace) -> None:
  from rich import box
  from rich.console import Console

  from lynx_jax.evals.command import Evaluation, evaluate, tables
  from lynx_jax.files import write_json

  evaluation = Evaluation(
    texts=tuple(map(Path, args.text)), choices=tuple(map(Path, args.choices)),
    exercises=tuple(map(Path, args.exercises)), batches=tuple(_batches(args.batch)), mixes=tuple(args.mix.split(",")),
    windows=args.windows, length=args.length, prompt_length=args.prompt_length, limit=args.limit, seed=args.seed,
  )  # fmt: skip
  policies = [lynx_jax.parse_policy(text) for text in args.policy or _EVALUATED]
  params = _load(args)
  with _status("evaluating") as progress:
    found = evaluate(params, evaluation, policies, progress=progress)
  terminal = sys.stdout.isatty()
  console = Console(width=None if terminal else 180)
  for table in tables(found):
    # In a file, a table that Markdown reads.
    table.box = table.box if terminal else box.MARKDOWN
    console.print(table)
  if args.json:
    write_json(Path(args.json), found)


def _figures(args: argparse.Namespace) -> None:
  from lynx_jax.figures.command import NAMES, Figures, make_figures

  figures = Figures(
    out=Path(args.out), only=tuple(args.only.split(",")) if args.only else NAMES, texts=tuple(map(Path, args.text)),
    batch=args.batch, windows=args.windows, length=args.length, redraw=args.redraw,
  )  # fmt: skip
  bench = argparse.Namespace(model=args.bench_model or args.model, dtype=args.dtype)
  with _status("figures") as progress:
    for picture in make_figures(lambda: _load(args), lambda: _load(bench), figures, progress):
      print(picture)


def _bench_decode(args: argparse.Namespace) -> None:
  from rich.console import Console

  from lynx_jax.bench.decode import bench_decode
  from lynx_jax.bench.table import decode_table, fit_lines
  from lynx_jax.files import write_json

  batches = _batches(args.batch)
  for name in ("prompt_length", "steps", "repeats"):
    if getattr(args, name) < 1:
      raise ValueError(f"--{name.replace('_', '-')} is {getattr(args, name)}: expected at least 1")
  policies = [lynx_jax.parse_policy(text) for text in args.policy or ["topk"]]
  params = _load(args)
  with _status("measuring") as progress:
    rows = list(
      bench_decode(
        params, batches, policies, tokens=args.tokens, prompt_length=args.prompt_length, steps=args.steps,
        repeats=args.repeats, seed=args.seed, progress=progress,
      )
    )  # fmt: skip
  Console(width=None if sys.stdout.isatty() else 140).print(decode_table(rows))
  for line in fit_lines(rows):
    print(line)
  if args.json:
    write_json(Path(args.json), [dataclasses.asdict(row) for row in rows])


def _batches(text: str) -> list[int]:
  try:
    batches = [int(part) for part in text.split(",")]
  except ValueError:
    batches = []
  if not batches or min(batches) < 1:
    raise ValueError(f"--batch is {text!r}: expected whole numbers of at least 1, with commas, such as 1,4,8")
  return batches


if __name__ == "__main__":
  main()
