"""HTTP/1.1 with bounds: heads of requests of a bounded length and time, and connections that can be cut."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lynx_jax.serve.errors import ApiError
from lynx_jax.serve.sse import ABORT

MOST_HEAD_BYTES = 64 * 2**10
HEAD_SECONDS = 30.0


class BoundedHttp(HttpToolsProtocol):
  """uvicorn's protocol, which itself reads heads of any length, for any time."""

  most_head_bytes = MOST_HEAD_BYTES
  head_seconds = HEAD_SECONDS
  _head_bytes = 0
  _head_open = True
  _head_timer: asyncio.TimerHandle | None = None

  def connection_made(self, transport: Any) -> None:
    """Begins to wait for the first head."""
    super().connection_made(transport)
    self._begin_head()

  def connection_lost(self, exc: Exception | None) -> None:
    """Ends the wait."""
    self._end_head()
    super().connection_lost(exc)

  def data_received(self, data: bytes) -> None:
    """Reads on, unless a head is too long."""
    if self._head_open:
      self._head_bytes += len(data)
    super().data_received(data)
    if self._head_open and self._head_bytes > self.most_head_bytes and not self.transport.is_closing():
      self.send_400_response(f"the head of the request has more than {self.most_head_bytes} bytes")

  def on_message_begin(self) -> None:
    """A head begins."""
    super().on_message_begin()
    extensions: dict[str, Any] = {ABORT: self.transport.abort}
    self.scope["extensions"] = extensions
    self._begin_head()

  def on_headers_complete(self) -> None:
    """A head has ended."""
    self._end_head()
    super().on_headers_complete()

  def send_400_response(self, msg: str) -> None:
    """Answers what is no request, in the form of all errors, and closes the connection."""
    body = ApiError(400, msg).body
    head = (
      f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
      "connection: close\r\n\r\n"
    )
    self.transport.write(head.encode() + body)
    self.transport.close()

  def _begin_head(self) -> None:
    self._end_head()
    self._head_open, self._head_bytes = True, 0
    self._head_timer = self.loop.call_later(self.head_seconds, self._close)

  def _end_head(self) -> None:
    self._head_open = False
    if self._head_timer is not None:
      self._head_timer.cancel()
      self._head_timer = None

  def _close(self) -> None:
    if not self.transport.is_closing():
      self.transport.close()
