"""A call's rows on an engine that is made for them, in the caller's thread."""

import dataclasses
import itertools
from collections.abc import Generator

from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.memory import out_of_memory_explained
from lynx_jax.engine.report import report
from lynx_jax.generation.job import Job, most_submitted
from lynx_jax.generation.progress import progress_bar
from lynx_jax.generation.results import Piece


def run_job(job: Job, *, progress: bool) -> Generator[Piece, None, None]:
  """First the errors of prompts that cannot run; then what each step gives the rows, in the order of rows.

  Raises:
    OutOfMemoryError: the cache or a step does not fit in memory.
    FloatingPointError, RuntimeError: as `Job.piece`.
  """
  with progress_bar(job.rows, progress) as show:
    for piece in itertools.chain(job.failures(), _steps(job)):
      show(piece)
      yield piece


def _steps(job: Job) -> Generator[Piece, None, None]:
  """The pieces of rows that can run, in steps of an engine."""
  order = job.order()
  if not order:
    return
  settings = job.settings()
  waiting, live, most = iter(order), 0, most_submitted(settings)
  left = len(order)
  with out_of_memory_explained(job.params, settings.slots, settings.positions(job.params.spec)):
    core = EngineCore(job.params, settings, recovers=False)
    while left:
      for row in itertools.islice(waiting, most - live):
        core.submit(job.request(row, str(row), core.limits.context))
        live += 1
      for given in sorted(core.step(), key=lambda piece: int(piece.request_id)):
        piece = job.piece(int(given.request_id), given)
        if piece.finish_reason is not None:
          left, live = left - 1, live - 1
        if not left and job.stats:
          piece = dataclasses.replace(piece, stats=report(core.log.decoding, job.params.decoder))
        yield piece
