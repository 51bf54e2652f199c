"""The engine for asyncio: pieces as they come, without a thread a request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence

from lynx_jax.engine.core import UpdateMode
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.models.params import Params


class AsyncAnswers:
  """What several requests that were submitted together get, for one task."""

  def __init__(self, engine: Engine, requests: Sequence[Request]):
    """Made by `AsyncEngine.submit`."""
    self._engine = engine
    self._running = {request.id for request in requests}
    self._pieces: list[Piece | BaseException] = []
    self._arrived = asyncio.Event()

  @property
  def ended(self) -> bool:
    """Whether every request has had its last piece."""
    return not self._running

  async def take(self) -> list[Piece]:
    """What has come since the last call, at least one piece; call no more once all have `ended`.

    Raises:
      EngineDead: the engine has failed.
    """
    await self._arrived.wait()
    self._arrived.clear()
    arrived, self._pieces = self._pieces, []
    pieces: list[Piece] = []
    for piece in arrived:
      if isinstance(piece, BaseException):
        self._running.clear()
        raise piece
      if piece.finished is not None:
        self._running.discard(piece.request_id)
      pieces.append(piece)
    return pieces

  def leave(self) -> None:
    """Ends the requests that have not ended; their pieces are lost."""
    for request_id in self._running:
      self._engine.abort(request_id)
    self._running.clear()

  def _put(self, piece: Piece | BaseException) -> None:
    self._pieces.append(piece)
    self._arrived.set()


class AsyncEngine:
  """An `Engine` whose answers are asynchronous iterators, in one event loop.

  The engine wakes the loop once a step, whatever the number of streams.
  """

  def __init__(self, engine: Engine):
    """Serves `engine` in the running event loop. The engine stays the caller's, to be closed by it."""
    self.engine = engine
    self._loop = asyncio.get_running_loop()
    self._ready: list[tuple[AsyncAnswers, Piece | BaseException]] = []
    engine.call_after_step(self._wake)

  async def submit(self, requests: Sequence[Request], answers: AsyncAnswers | None = None) -> AsyncAnswers:
    """Lets requests run when their turns come: all of them, or none.

    Args:
      requests: several.
      answers: of earlier requests, which go on with what these get too; None makes new ones. A caller that is
        cancelled here leaves all of them.

    Raises:
      ValueError: one can never run here.
      Overloaded: too many requests wait, or the engine drains.
      EngineDead: the engine has failed.
    """
    joined = answers or AsyncAnswers(self.engine, ())

    def deliver(piece: Piece | BaseException) -> None:
      self._ready.append((joined, piece))

    new = {request.id for request in requests}
    joined._running |= new
    try:
      await asyncio.wrap_future(self.engine.start(lambda: self.engine.take_all(requests, deliver)))
    except asyncio.CancelledError:
      # Whether the engine has taken the new ones is not known: a request of the same name may be another caller's.
      joined._running -= new
      self.engine.abort_all(deliver)
      joined.leave()
      raise
    except BaseException:
      joined._running -= new
      raise
    return joined

  async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
    """The pieces of a request up to the last one. Leaving the iterator early ends the request.

    Raises:
      ValueError: it can never run here.
      Overloaded: too many requests wait, or the engine drains.
      EngineDead: the engine has failed.
    """
    answers = await self.submit([request])
    try:
      while not answers.ended:
        for piece in await answers.take():
          yield piece
    finally:
      answers.leave()

  async def update_weights(self, params: Params, *, mode: UpdateMode = "keep", recompute: bool = True) -> int:
    """As `Engine.update_weights`."""
    return await asyncio.to_thread(self.engine.update_weights, params, mode=mode, recompute=recompute)

  async def drain(self, timeout: float | None = None) -> bool:
    """As `Engine.drain`."""
    return await asyncio.to_thread(self.engine.drain, timeout)

  def _wake(self) -> None:
    """In the engine's thread: hands over what the step gave."""
    if self._ready:
      ready, self._ready = self._ready, []
      # The loop may have ended before a request that its streams have left.
      with contextlib.suppress(RuntimeError):
        self._loop.call_soon_threadsafe(_put, ready)


def _put(ready: list[tuple[AsyncAnswers, Piece | BaseException]]) -> None:
  for answers, piece in ready:
    answers._put(piece)
