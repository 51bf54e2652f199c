"""The command line `lynx-jax`: generate, chat, serve, batch, convert, info, estimate, eval, bench.

Nothing heavy is imported until a command needs it, so that `--help` and `--version` answer at once.
"""

import argparse
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TextIO

import lynx_jax
from lynx_jax.cli import batch, chat, generate, measure, models, serve
from lynx_jax.platforms import settle_platform

_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError, MemoryError)


def main(argv: Sequence[str] | None = None) -> NoReturn:
  """Runs one command and exits: 0 on success, 2 on bad input (one line on standard error), 130 on Ctrl-C."""
  try:
    _settle_streams()
    args = _parser().parse_args(argv)
    settle_platform()
    args.run(args)
    sys.stdout.flush()
  except KeyboardInterrupt:
    sys.exit(130)
  except BrokenPipeError:
    _abandon_output()
    sys.exit(141)
  except _EXPECTED as error:
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
    reason = "standard output cannot be written: no space left on its disk" if full else " ".join(str(error).split())
    print(f"lynx-jax: error: {reason or type(error).__name__}", file=sys.stderr)
    if full:
      _abandon_output()
    sys.exit(2)
  sys.exit(0)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(prog="lynx-jax", description="Batched Mixture-of-Experts inference in JAX.")
  parser.add_argument("--version", action="version", version=f"lynx_jax {lynx_jax.__version__}")
  verbs = parser.add_subparsers(required=True, metavar="COMMAND")
  for commands in (generate, chat, serve, batch, models, measure):
    commands.add_commands(verbs)
  return parser


def _settle_streams() -> None:
  """Makes the standard streams usable: Python has None where one is closed, and ASCII in the C locale.

  Raises:
    OSError: standard output is closed.
  """
  if sys.stdin is None:
    sys.stdin = _nothing("r")
  closed = sys.stdout is None
  if closed:
    # Keeps the descriptor from going to a file that is opened later.
    sys.stdout = _nothing("w")
  if sys.stderr is None:
    sys.stderr = _nothing("w")
  if closed:
    raise OSError("standard output is closed: redirect it to a file, or to /dev/null")
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
      stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _nothing(mode: str) -> TextIO:
  """A stream for the rest of the process that is empty, or keeps nothing."""
  return Path(os.devnull).open(mode, encoding="utf-8")  # pyright: ignore[reportReturnType]


def _abandon_output() -> None:
  """Drops what standard output still holds: the reader left, or the disk is full. Python flushes it again at exit."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
