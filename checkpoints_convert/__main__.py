"""Command line: `python -m checkpoints_convert SRC DST`."""

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence

from checkpoints_convert.conversion import FORMATS, Report, convert


def main(arguments: Sequence[str] | None = None) -> int:
  """Converts one directory; returns 0, or 2 after a line on standard error that says what to change."""
  parser = argparse.ArgumentParser(
    prog="python -m checkpoints_convert", description="Writes the model of directory SRC as directory DST."
  )
  parser.add_argument("src", metavar="SRC", help="a Hugging Face model directory, or a converted one")
  parser.add_argument("dst", metavar="DST", help="the directory to make")
  parser.add_argument("--dtype", help="bfloat16, float16 or float32 (default: as in SRC)")
  parser.add_argument("--to", choices=FORMATS, default="orbax", help="what to write (default: orbax)")
  parser.add_argument("--force", action="store_true", help="replace a model directory that is at DST already")
  given = parser.parse_args(arguments)
  try:
    with _progress() as report:
      convert(given.src, given.dst, dtype=given.dtype, to=given.to, force=given.force, report=report)
  except (ValueError, OSError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 2
  print(f"wrote {given.dst}")
  return 0


@contextlib.contextmanager
def _progress() -> Iterator[Report]:
  """Bars on standard error, one a stage; silent where that is not a terminal."""
  from rich.console import Console
  from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeElapsedColumn

  console = Console(stderr=True)
  if not console.is_terminal:
    yield lambda stage, done, total: None
    return
  columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeElapsedColumn())
  with Progress(*columns, console=console) as bars:
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
      if stage not in tasks:
        tasks[stage] = bars.add_task(stage, total=total)
      bars.update(tasks[stage], completed=done)

    yield show


if __name__ == "__main__":
  sys.exit(main())
