"""`chat`: a conversation in the terminal."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

import lynx_jax
from lynx_jax.cli.decoding import add_decoding, decoding_options, utf8
from lynx_jax.cli.options import load

if TYPE_CHECKING:
  from lynx_jax.models.params import Params


def add_commands(verbs: Any) -> None:
  """Adds the command to the parser's verbs."""
  chat = verbs.add_parser("chat", help="talk to a model that has a chat template")
  chat.add_argument("--system", metavar="TEXT", help="what the model is told first, if its template takes that")
  add_decoding(chat)
  chat.set_defaults(run=_chat)


def _chat(args: argparse.Namespace) -> None:
  from lynx_jax.text.chat import chat_prompts

  options = decoding_options(args)
  first = [] if args.system is None else [{"role": "system", "content": utf8("--system", args.system)}]
  params = load(args)
  # A model that cannot chat says so before anything is typed.
  chat_prompts(params.tokenizer, [*first, {"role": "user", "content": ""}], {})
  if sys.stdin.isatty():
    print("Type a message; /reset starts over, /exit ends.", file=sys.stderr)
  turns: list[dict[str, str]] = []
  while (line := _read_line()) is not None and line.strip() != "/exit":
    if line.strip() == "/reset":
      turns = []
    elif line.strip():
      asked = _fitting(params, first, [*turns, {"role": "user", "content": line}])
      if asked is not None:
        answer = _answer(params, [*first, *asked], args.policy, options)
        turns = [*asked, {"role": "assistant", "content": answer}]


def _fitting(params: "Params", first: list[dict[str, str]], turns: list[dict[str, str]]) -> list[dict[str, str]] | None:
  """The newest turns that leave room for an answer in the model's context; None where not even the last one does."""
  from lynx_jax.text.chat import chat_prompts

  context, kept = params.spec.context, turns
  while kept and len(chat_prompts(params.tokenizer, [*first, *kept], {})[0]) >= context:
    kept = kept[2:]
  if not kept:
    print(f"The message does not fit the model's context of {context} tokens: shorten it.", file=sys.stderr)
    return None
  if len(kept) < len(turns):
    forgotten = (len(turns) - len(kept)) // 2
    print(
      f"The conversation outgrew the model's context of {context} tokens: its first {forgotten} "
      f"{'turn is' if forgotten == 1 else 'turns are'} forgotten. /reset starts over.",
      file=sys.stderr,
    )
  return kept


def _answer(params: "Params", messages: list[dict[str, str]], policy: str, options: dict[str, Any]) -> str:
  """Prints the model's answer while it grows."""
  reply = ""
  for piece in lynx_jax.stream(params, messages, chat=True, **options):
    print(piece.text, end="", flush=True)
    reply += piece.text
    if piece.stats is not None:
      print(f"\n{policy}: {piece.stats}", file=sys.stderr)
  print()
  return reply


def _read_line() -> str | None:
  try:
    return input("> " if sys.stdin.isatty() else "")
  except EOFError:
    return None
