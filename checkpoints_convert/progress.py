"""Progress bars of a conversion."""

import contextlib
from collections.abc import Iterator

from checkpoints_convert.conversion import Report


@contextlib.contextmanager
def bars() -> Iterator[Report]:
  """Bars on standard error, one a stage; silent where that is not a terminal."""
  from rich.console import Console
  from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TimeElapsedColumn

  console = Console(stderr=True)
  if not console.is_terminal:
    yield lambda stage, done, total: None
    return
  columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeElapsedColumn())
  with Progress(*columns, console=console) as shown:
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
      if stage not in tasks:
        tasks[stage] = shown.add_task(stage, total=total)
      shown.update(tasks[stage], completed=done)

    yield show
