"""Command line: `python -m checkpoints_convert SRC DST`. It alone asks lynx_jax for the families."""

import argparse
import sys
from collections.abc import Sequence

from checkpoints_convert.abandoned_reads import silence_abandoned_reads
from checkpoints_convert.conversion import FORMATS
from checkpoints_convert.interruption import interruptible
from checkpoints_convert.progress import bars
from lynx_jax.models.checkpoints import convert


def main(arguments: Sequence[str] | None = None) -> int:
  """Converts one directory; returns 0, or 2 after a line on standard error that says what to change."""
  parser = argparse.ArgumentParser(
    prog="python -m checkpoints_convert", description="Writes the model of directory SRC as directory DST."
  )
  parser.add_argument("src", metavar="SRC", help="a Hugging Face model directory, or a converted one")
  parser.add_argument("dst", metavar="DST", help="the directory to make")
  parser.add_argument("--dtype", help="bfloat16, float16 or float32 (default: as in SRC)")
  parser.add_argument("--to", choices=FORMATS, default="orbax", help="what to write (default: orbax)")
  how = "write weights of 8 bits; or experts of 4 and others of 8; or plain numbers (default: as in SRC)"
  parser.add_argument("--weights", metavar="int8|int4|float", help=how)
  parser.add_argument("--force", action="store_true", help="replace a model directory that is at DST already")
  given = parser.parse_args(arguments)
  silence_abandoned_reads()
  try:
    with interruptible("", given.dst), bars() as report:
      convert(
        given.src, given.dst, dtype=given.dtype, to=given.to, force=given.force, weights=given.weights, report=report
      )
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  print(f"wrote {given.dst}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
