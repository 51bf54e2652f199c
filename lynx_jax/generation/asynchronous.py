"""`generate` and `stream` for asyncio. The names are Python's own way (`anext`), and that of LangChain."""

import asyncio
import contextlib
import dataclasses
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from lynx_jax.engine.async_engine import AsyncAnswers, AsyncEngine
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.memory import out_of_memory_explained
from lynx_jax.engine.prompts import Prompts
from lynx_jax.engine.report import report
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.generation.job import Job, most_submitted
from lynx_jax.generation.options import Constraints, Errors, Stops
from lynx_jax.generation.progress import progress_bar
from lynx_jax.generation.results import Completion, Completions, Piece
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy
from lynx_jax.text.chat import Chats
from pallas_kernels.checks import require


async def agenerate(
  model: Params | AsyncEngine,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: Stops = (),
  constraint: Constraints = None,
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
  n: int = 1,
  batch: int | None = None,
  errors: Errors = "raise",
  progress: bool = False,
) -> list[Completion]:
  """As `generate`, while the event loop goes on. A caller that is cancelled ends its requests.

  `model` is a loaded model, for which an engine is made; or an engine, which several callers may share. An engine has
  its own policy and batch, so these are not given again, and `stats` is not either.

  Raises:
    ValueError, TypeError, FloatingPointError, RuntimeError, OutOfMemoryError: as `generate`.
    Overloaded: the engine takes no more requests now.
    EngineDead: the engine has failed.
  """
  found = Completions()
  pieces = astream(
    model, prompts, max_new_tokens=max_new_tokens, policy=policy, sampling=sampling, stop=stop, constraint=constraint,
    stats=stats, chat=chat, n=n, batch=batch, errors=errors, progress=progress,
  )  # fmt: skip
  async with contextlib.aclosing(pieces):
    async for piece in pieces:
      found.add(piece)
  return found.whole()


async def astream(
  model: Params | AsyncEngine,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: Stops = (),
  constraint: Constraints = None,
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
  n: int = 1,
  batch: int | None = None,
  errors: Errors = "raise",
  progress: bool = False,
) -> AsyncGenerator[Piece, None]:
  """As `agenerate`, token by token. Leaving the iterator ends its requests, at once with `aclose`."""
  if isinstance(model, AsyncEngine):
    remedy = "it belongs to the engine: set it in EngineSettings"
    for name, value, usual in (("policy", policy, None), ("stats", stats, False), ("batch", batch, None)):
      require(value is usual, name, value, f"{usual} with an engine", remedy)
    params, context = model.engine.core.params, model.engine.core.limits.context
  else:
    params, context = model, None
  # Tokenizing thousands of prompts would stop the event loop.
  job = await asyncio.to_thread(
    Job, params, prompts, max_new_tokens=max_new_tokens, policy=policy, sampling=sampling, stop=stop,
    constraint=constraint, stats=stats, chat=chat, n=n, batch=batch, errors=errors, context=context,
  )  # fmt: skip
  with progress_bar(job.rows, progress) as show:
    for piece in job.failures():
      show(piece)
      yield piece
    if len(job.failed) == job.rows:
      return
    async with _engine_for(job, model) as served, contextlib.aclosing(_answers(job, served)) as pieces:
      async for piece in pieces:
        show(piece)
        yield piece


async def _answers(job: Job, served: AsyncEngine) -> AsyncGenerator[Piece, None]:
  """The pieces of rows that can run."""
  core = served.engine.core
  order = job.order()
  waiting, left, most = iter(order), len(order), most_submitted(core.settings)
  running: dict[str, int] = {}
  answers: AsyncAnswers | None = None
  try:
    while left:
      requests = list(_named(job, itertools.islice(waiting, most - len(running)), served, running))
      if answers is None or requests:
        answers = await served.submit(requests, answers)
      for given in await answers.take():
        piece = job.piece(running[given.request_id], given)
        if piece.finish_reason is not None:
          del running[given.request_id]
          left -= 1
        if not left and job.stats:
          piece = dataclasses.replace(piece, stats=report(core.log.decoding, job.params.decoder))
        yield piece
  finally:
    if answers is not None:
      answers.leave()


def _named(job: Job, rows: Iterator[int], served: AsyncEngine, running: dict[str, int]) -> Iterator[Request]:
  """Requests of rows, under names that are new to the engine, which are noted in `running`."""
  for row in rows:
    name = served.engine.new_name()
    running[name] = row
    yield job.request(row, name, served.engine.core.limits.context)


@contextlib.asynccontextmanager
async def _engine_for(job: Job, model: Params | AsyncEngine) -> AsyncIterator[AsyncEngine]:
  """The engine that was given, or one for this job alone."""
  if isinstance(model, AsyncEngine):
    yield model
    return
  made = asyncio.ensure_future(asyncio.to_thread(_new_engine, model, job.settings()))
  try:
    engine = await asyncio.shield(made)
  except asyncio.CancelledError:
    # Its memory is being allocated, which cannot be stopped.
    engine = await made
    engine.close()
    raise
  try:
    yield AsyncEngine(engine)
  finally:
    await asyncio.shield(asyncio.to_thread(engine.close))


def _new_engine(params: Params, settings: EngineSettings) -> Engine:
  with out_of_memory_explained(params, settings.slots, settings.positions(params.spec)):
    return Engine(params, settings)
