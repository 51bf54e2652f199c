"""`generate` and `chat`: text in, text out."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.options import add_model, load

if TYPE_CHECKING:
  from lynx_jax.generation import Piece


def add_commands(verbs: Any) -> None:
  """Adds both commands to the parser's verbs."""
  generate = verbs.add_parser("generate", help="complete prompts as one batch")
  generate.add_argument("prompt", nargs="*", help="prompts; with none, one a line from standard input")
  generate.add_argument("--prompts", metavar="FILE", help="UTF-8 file with one prompt a line; - is standard input")
  generate.add_argument("--chat", action="store_true", help="prompts are users' messages, for the chat template")
  generate.add_argument("--json", action="store_true", help="print one JSON object a prompt, in order")
  _add_decoding(generate)
  generate.set_defaults(run=_generate)

  chat = verbs.add_parser("chat", help="talk to a model that has a chat template")
  chat.add_argument("--system", metavar="TEXT", help="what the model is told first, if its template takes that")
  _add_decoding(chat)
  chat.set_defaults(run=_chat)


def _add_decoding(parser: argparse.ArgumentParser) -> None:
  add_model(parser)
  parser.add_argument("--policy", default="topk", help="topk, lynx:alpha=3,beta=2, oea:k0=2, ... (default: topk)")
  parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N")
  parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
  parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 is off (default)")
  parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1 is off (default)")
  parser.add_argument("--min-p", type=float, default=0.0, metavar="P", help="0 is off (default)")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="ends a row; may be repeated")
  parser.add_argument("--stats", action="store_true", help="print distinct experts with and without the policy")


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
  params = load(args)
  pieces = lynx_jax.stream(params, prompts, chat=args.chat, **options)
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
  from lynx_jax.text.chat import chat_prompts

  options = _decoding(args)
  params = load(args)
  first = [] if args.system is None else [{"role": "system", "content": args.system}]
  # A model that cannot chat says so before anything is typed.
  chat_prompts(params.tokenizer, [*first, {"role": "user", "content": ""}], {})
  if sys.stdin.isatty():
    print("Type a message; /reset starts over, /exit ends.", file=sys.stderr)
  messages = list(first)
  while (line := _read_line()) is not None and line.strip() != "/exit":
    if line.strip() == "/reset":
      messages = list(first)
    elif line.strip():
      messages.append({"role": "user", "content": line})
      reply = ""
      for piece in lynx_jax.stream(params, messages, chat=True, **options):
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
