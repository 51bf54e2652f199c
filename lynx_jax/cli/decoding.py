"""What `generate` and `chat` share: flags of decoding, and arguments as Unicode text."""

import argparse
import os

import lynx_jax
from lynx_jax.cli.options import add_model


def add_decoding(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of a model and of decoding."""
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
  parser.add_argument("--quiet", action="store_true", help="print nothing on standard error but errors and --stats")


def decoding_options(args: argparse.Namespace) -> dict:
  """Keyword arguments of `stream` from the flags, checked before any weight is read."""
  return {
    "policy": lynx_jax.parse_policy(args.policy),
    "sampling": lynx_jax.Sampling(
      temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p, seed=args.seed
    ),
    "max_new_tokens": args.max_new_tokens,
    "stop": [utf8("--stop", text) for text in args.stop],
    "stats": args.stats,
  }


def utf8(what: str, argument: str) -> str:
  """An argument of the command line as UTF-8, whatever the locale took its bytes for.

  Raises:
    ValueError: its bytes are no UTF-8.
  """
  try:
    return os.fsencode(argument).decode("utf-8")
  except UnicodeError as error:
    raise ValueError(f"{what} is not UTF-8: give it in UTF-8, or in a file with --prompts") from error
