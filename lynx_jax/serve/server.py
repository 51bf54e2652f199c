"""Runs the application: a socket, signals, and an end that loses no answer."""

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from types import FrameType

import uvicorn

from lynx_jax.serve.app import create_app
from lynx_jax.serve.http_protocol import BoundedHttp
from lynx_jax.serve.served import Progress, Served
from pallas_kernels.checks import whole_number

_LOG = logging.getLogger(__name__)
_FLUSH_SECONDS = 10.0
"""For answers that are whole to reach their clients."""


class Server(uvicorn.Server):
  """Serves until it is told to end; then it drains.

  The first signal (or `end`) refuses new requests and lets the others go on for `drain_seconds`. The second ends the
  server at once.

  Attributes:
    failed: whether the engine's failure ended it.
  """

  def __init__(self, served: Served, listener: socket.socket, progress: Progress, *, access_log: bool = False):
    """Serves `served` on a socket that listens."""
    app = create_app(served, progress)
    super().__init__(uvicorn.Config(
      app, http=BoundedHttp, ws="none", lifespan="on", log_config=None, access_log=access_log, server_header=False,
      timeout_graceful_shutdown=round(_FLUSH_SECONDS),
    ))  # fmt: skip
    self.failed = False
    self._served, self._listener = served, listener
    self._loop: asyncio.AbstractEventLoop | None = None
    self._drain: asyncio.Task[None] | None = None
    served.when_failed(self._fail)

  def serve_forever(self) -> None:
    """Serves in this thread until the end."""
    self.run(sockets=[self._listener])

  async def serve(self, sockets: list[socket.socket] | None = None) -> None:
    """Serves in the running event loop until the end."""
    self._loop = asyncio.get_running_loop()
    await super().serve(sockets)

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """What a signal does."""
    self.end()

  def end(self) -> None:
    """Ends the server: the first call drains, the second does not wait. From any thread, once it runs."""
    if self._served.state == "draining":
      self.should_exit = self.force_exit = True
      return
    self._served.state = "draining"
    if self._loop is None:
      self.should_exit = True
    else:
      self._loop.call_soon_threadsafe(self._begin_drain)

  def _begin_drain(self) -> None:
    self._drain = asyncio.ensure_future(self._drained())

  async def _drained(self) -> None:
    seconds = self._served.settings.drain_seconds
    _LOG.info("ends: requests may go on for %g s; a second signal ends it at once", seconds)
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def drain() -> None:
      with contextlib.suppress(Exception):
        self._served.engine.drain(seconds)
      with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(done.cancel)

    # A daemon: a second signal does not wait for it.
    threading.Thread(target=drain, name="lynx-drain", daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
      await done
    self.should_exit = True

  def _fail(self) -> None:
    self.failed = True
    self.should_exit = True


def listen(host: str, port: int, reader_seconds: float = 60.0) -> socket.socket:
  """A socket that takes connections; port 0 takes any that is free.

  Raises:
    OSError: the address cannot be had.
  """
  whole_number("port", port, least=0, most=65535)
  try:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with contextlib.ExitStack() as undone:
      listener = undone.enter_context(socket.socket(family, kind, protocol))
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      # The kernel drops clients that do not take what was sent to them; connections inherit it.
      if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(reader_seconds * 1000))
      listener.bind(address)
      listener.listen(2048)
      undone.pop_all()
  except OSError as error:
    raise OSError(f"cannot listen on {host} port {port} ({error.strerror or error}): choose another") from error
  return listener


def url_of(listener: socket.socket) -> str:
  """The address of a socket that listens, as clients write it."""
  host, port = listener.getsockname()[:2]
  return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_public(listener: socket.socket) -> bool:
  """Whether other machines may reach a socket that listens."""
  return not ipaddress.ip_address(listener.getsockname()[0]).is_loopback
