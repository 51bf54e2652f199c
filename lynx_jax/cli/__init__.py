"""The command line `lynx-jax`: generate, chat, convert, info, estimate, eval, bench decode."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import lynx_jax
from checkpoints_convert.abandoned_reads import silence_abandoned_reads
from lynx_jax.cli import measure, models, text
from lynx_jax.platforms import settle_platform

_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)


def main(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs one command and exits: 0 on success, 2 on bad input (one line on standard error), 130 on Ctrl-C."""
  args = _parser().parse_args(argv)
  settle_platform()
  silence_abandoned_reads()
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
  for commands in (text, models, measure):
    commands.add_commands(verbs)
  return parser
