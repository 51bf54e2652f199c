"""A progress bar for calls with many prompts."""

import contextlib
import time
from collections.abc import Callable, Iterator

from lynx_jax.generation.results import Piece


@contextlib.contextmanager
def progress_bar(rows: int, shown: bool) -> Iterator[Callable[[Piece], None]]:
  """A bar on standard error, if `shown`: rows done, tokens a second, time. It is told of every piece.

  Where standard error is no terminal, its last state is printed once.
  """
  if not shown:
    yield lambda piece: None
    return
  from rich.console import Console
  from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

  speed = TextColumn("{task.fields[tokens].rate:,.0f} tokens/s")
  columns = (TextColumn("generating"), BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn())
  tokens = _Tokens()
  with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
    task = bar.add_task("generating", total=rows, tokens=tokens)

    def show(piece: Piece) -> None:
      tokens.add(len(piece.token_ids))
      if piece.finish_reason is not None:
        bar.advance(task)

    yield show


class _Tokens:
  """Counts new tokens. Time runs from the first one on: what comes before may be compiling."""

  def __init__(self):
    self._count = 0
    self._begin: float | None = None

  def add(self, tokens: int) -> None:
    if self._begin is None:
      self._begin = time.perf_counter()
    self._count += tokens

  @property
  def rate(self) -> float:
    seconds = 0.0 if self._begin is None else time.perf_counter() - self._begin
    return self._count / seconds if seconds > 0 else 0.0
