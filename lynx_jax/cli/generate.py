"""`generate`: completes prompts as one batch."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.decoding import add_decoding, decoding_options, utf8
from lynx_jax.cli.options import load
from lynx_jax.cli.speed import Speed

if TYPE_CHECKING:
  from lynx_jax.generation import Piece


def add_commands(verbs: Any) -> None:
  """Adds the command to the parser's verbs."""
  generate = verbs.add_parser("generate", help="complete prompts as one batch")
  generate.add_argument("prompt", nargs="*", help="prompts; with none, one a line from standard input")
  generate.add_argument("--prompts", metavar="FILE", help="UTF-8 file with one prompt a line; - is standard input")
  generate.add_argument("--chat", action="store_true", help="prompts are users' messages, for the chat template")
  generate.add_argument("--json", action="store_true", help="print one JSON object a prompt, in order")
  add_decoding(generate)
  generate.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> None:
  from lynx_jax.engine.prompts import encode_prompts

  options = decoding_options(args)
  prompts = _prompts(args)
  params = load(args)
  ids = encode_prompts(params, prompts, args.chat)
  speed = Speed(sum(map(len, ids)))
  pieces = speed.watch(lynx_jax.stream(params, ids, **options))
  rows = (_print_json if args.json else _print_text)(pieces, prompts)
  if args.stats:
    print(f"{args.policy}: {rows.report or 'no decode step ran'}", file=sys.stderr)
  if not args.quiet:
    for line in (*rows.limited(), *speed.lines()):
      print(line, file=sys.stderr)


def _prompts(args: argparse.Namespace) -> list[str]:
  if args.prompt and args.prompts:
    raise ValueError("prompts were given both as arguments and as --prompts: give one of them")
  if args.prompt:
    return [utf8(f"prompt {index}", prompt) for index, prompt in enumerate(args.prompt)]
  source = args.prompts or "-"
  if source == "-" and args.prompts is None and sys.stdin.isatty():
    raise ValueError("no prompt: give prompts as arguments, with --prompts FILE, or on standard input")
  where = "standard input" if source == "-" else source
  try:
    data = _standard_input() if source == "-" else Path(source).read_bytes()
  except OSError as error:
    raise OSError(
      f"cannot read {where} ({error.strerror}): give a UTF-8 file with one prompt a line, or prompts as arguments"
    ) from error
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


def _standard_input() -> bytes:
  return sys.stdin.buffer.read()


class _Rows:
  """What all rows' pieces add up to."""

  def __init__(self, prompts: list[str]):
    self.prompts = prompts
    self.texts = [""] * len(prompts)
    self.token_ids: list[list[int]] = [[] for _ in prompts]
    self.reasons: list[str | None] = [None] * len(prompts)
    self.report: object = None

  def gather(self, pieces: "Iterable[Piece]") -> "Iterator[Piece]":
    """Passes pieces on, and remembers them."""
    for piece in pieces:
      self.texts[piece.row] += piece.text
      self.token_ids[piece.row] += piece.token_ids
      self.reasons[piece.row] = piece.finish_reason
      self.report = piece.stats or self.report
      yield piece

  def limited(self) -> list[str]:
    """A line that names the rows whose text goes on: they ended at their limit."""
    rows = [str(index) for index, reason in enumerate(self.reasons) if reason == "length"]
    if not rows:
      return []
    which = "the text" if len(self.prompts) == 1 else f"the text of prompt{'s' * (len(rows) > 1)} {', '.join(rows)}"
    return [f"{which} ended at its limit (--max-new-tokens, or the model's context)"]


def _print_text(pieces: "Iterable[Piece]", prompts: list[str]) -> _Rows:
  """Prints rows in order, the first unfinished one live."""
  rows, printed, live = _Rows(prompts), [0] * len(prompts), 0
  print(prompts[0], end="", flush=True)
  for _ in rows.gather(pieces):
    while live < len(prompts):
      print(rows.texts[live][printed[live] :], end="", flush=True)
      printed[live] = len(rows.texts[live])
      if rows.reasons[live] is None:
        break
      live += 1
      print("\n\n" + prompts[live] if live < len(prompts) else "\n", end="", flush=True)
  return rows


def _print_json(pieces: "Iterable[Piece]", prompts: list[str]) -> _Rows:
  rows = _Rows(prompts)
  for _ in rows.gather(pieces):
    pass
  for prompt, text, ids, reason in zip(prompts, rows.texts, rows.token_ids, rows.reasons, strict=True):
    print(json.dumps({"prompt": prompt, "text": text, "token_ids": ids, "finish_reason": reason}))
  return rows
