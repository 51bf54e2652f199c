"""The engine for asyncio: pieces as they come, without a thread a request."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Piece, Request


class AsyncEngine:
  """An `Engine` whose answers are asynchronous iterators, in one event loop.

  The engine wakes the loop once a step, whatever the number of streams.
  """

  def __init__(self, engine: Engine):
    """Serves `engine` in the running event loop. The engine stays the caller's, to be closed by it."""
    self.engine = engine
    self._loop = asyncio.get_running_loop()
    self._ready: list[tuple[asyncio.Queue[Piece | BaseException], Piece | BaseException]] = []
    engine.call_after_step(self._wake)

  async def stream(self, request: Request) -> AsyncGenerator[Piece, None]:
    """The pieces of a request up to the last one. Leaving the iterator early ends the request.

    Raises:
      ValueError: it can never run here.
      Overloaded: too many requests wait, or the engine drains.
      EngineDead: the engine has failed.
    """
    pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

    def deliver(piece: Piece | BaseException) -> None:
      self._ready.append((pieces, piece))

    submitted = self.engine.start(lambda: self.engine.take(request, deliver))
    ended = False
    try:
      await asyncio.wrap_future(submitted)
      while not ended:
        piece = await pieces.get()
        if isinstance(piece, BaseException):
          ended = True
          raise piece
        ended = piece.finished is not None
        yield piece
    finally:
      if not ended and not (submitted.done() and submitted.exception()):
        self.engine.abort(request.id)

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


def _put(ready: list[tuple[asyncio.Queue[Piece | BaseException], Piece | BaseException]]) -> None:
  for pieces, piece in ready:
    pieces.put_nowait(piece)
