"""Server-sent events: a stream of chunks that ends when its client leaves, or reads nothing for long."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

ABORT = "lynx_jax.abort"
"""The extension of a scope that closes the connection at once, whatever it still holds."""

Result = TypeVar("Result")


class ClientGone(Exception):  # noqa: N818 (no error of the server)
  """The client has closed its connection."""


async def unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
  """The result of `work`, which is cancelled when the client leaves.

  Raises:
    ClientGone: the client has left.
  """
  task = asyncio.ensure_future(work)
  watcher = asyncio.ensure_future(_gone(receive))
  try:
    await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
      raise ClientGone
    return task.result()
  finally:
    await _end(task, watcher)


class EventStream(Response):
  """Sends events as they come."""

  media_type = "text/event-stream"

  def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str], reader_seconds: float):
    """`events` are closed however the stream ends; a client that takes none for `reader_seconds` is dropped.

    One task a stream watches its client. A timeout around each event would cost more than making the event.
    """
    super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
    # A stream has no length.
    del self.headers["content-length"]
    self._events = events
    self._reader_seconds = reader_seconds
    self._since: float | None = None
    self._dropped = False

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Serves the stream to its end, or to its client's."""
    sending = asyncio.ensure_future(self._send(send))
    watching = asyncio.ensure_future(self._watch(sending))
    try:
      await unless_gone(receive, sending)
    except ClientGone:
      pass
    except asyncio.CancelledError:
      abort = scope.get("extensions", {}).get(ABORT)
      if abort is None or not self._dropped:
        raise
      abort()
      await _gone(receive)
    finally:
      await _end(sending, watching)
      await self._events.aclose()

  async def _watch(self, sending: "asyncio.Future[None]") -> None:
    """Ends the stream once its client has not read for too long."""
    while self._since is None or time.monotonic() - self._since < self._reader_seconds:
      await asyncio.sleep(self._reader_seconds / 2)
    self._dropped = True
    sending.cancel()

  async def _send(self, send: Send) -> None:
    await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
    async for event in self._events:
      # While this waits, pieces gather, and the next event holds them all.
      self._since = time.monotonic()
      await send({"type": "http.response.body", "body": event, "more_body": True})
      self._since = None
    await send({"type": "http.response.body", "body": b""})


def event(data: bytes) -> bytes:
  """One event."""
  return b"data: " + data + b"\n\n"


async def _gone(receive: Receive) -> None:
  while (await receive())["type"] != "http.disconnect":
    pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
  """Cancels tasks and waits for their ends."""
  for task in tasks:
    task.cancel()
  await asyncio.gather(*tasks, return_exceptions=True)
