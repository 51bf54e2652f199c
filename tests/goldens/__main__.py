"""Computes goldens again: compares them with what is recorded, or records them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests import goldens
from tests.goldens import divergence, kernels, routes, stored, texts

RECORDERS: dict[str, Callable[[], dict[str, Any]]] = {
  "texts": lambda: {model: texts.record(model) for model in texts.MODELS},
  "routes": lambda: {case: routes.record(case) for case in routes.CASES},
  "divergence": divergence.record,
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns 1 where a recorded result differs."""
  names = (*RECORDERS, kernels.NAME)
  parser = argparse.ArgumentParser(
    prog="python -m tests.goldens", description=goldens.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
  action = parser.add_mutually_exclusive_group(required=True)
  action.add_argument("--check", action="store_true", help="compare, entry by entry, to the last digit recorded")
  action.add_argument("--write", action="store_true", help="record")
  args = parser.parse_args(argv)
  if unknown := set(args.names) - set(names):
    parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(names)}")
  failed = False
  for name in args.names or names:
    if name == kernels.NAME:
      failed |= not kernels.run(write=args.write)
    elif args.write:
      stored.write(name, RECORDERS[name]())
    else:
      failed |= _differs(name, RECORDERS[name]())
  return int(failed)


def _differs(name: str, found: dict[str, Any]) -> bool:
  recorded = stored.read(name)
  pairs = {(group, key) for side in (found, recorded) for group in side for key in side[group]}
  different = sorted(
    (group, key) for group, key in pairs if found.get(group, {}).get(key) != recorded.get(group, {}).get(key)
  )
  for group, key in different:
    print(f"{name}: {group}: {key} differs")
  return bool(different)


if __name__ == "__main__":
  sys.exit(main())
