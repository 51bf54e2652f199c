"""What stands before the endpoints: keys, and bounds on what is read of a body and on what one key runs."""

import asyncio
import collections
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lynx_jax.serve.errors import ApiError
from lynx_jax.serve.page import page_paths
from lynx_jax.serve.settings import ServerSettings

_OPEN = frozenset({"/health", "/ready", "/version", "/metrics", "/openapi.json"})
"""Paths that need no key: monitors have none."""


class Guards:
  """Refuses calls without a key, bodies that are too long or do not come, and keys that run too much."""

  def __init__(self, app: ASGIApp, settings: ServerSettings):
    self._app, self._settings = app, settings
    self._keys = [key.encode() for key in settings.keys]
    self._running: collections.Counter[bytes] = collections.Counter()
    self._open = _OPEN | page_paths() if settings.page else _OPEN

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    """Passes a call on, or answers it."""
    if scope["type"] != "http":
      await self._app(scope, receive, send)
      return
    headers = Headers(scope=scope)
    try:
      key = self._checked_key(scope, headers)
      self._check_length(headers)
      self._check_running(scope, key)
    except ApiError as error:
      await error.response(scope, receive, send)
      return
    # An answer that is streamed runs as long as its call.
    counted = scope["method"] == "POST"
    self._running[key] += counted
    try:
      await self._app(scope, _Bounded(receive, self._settings), send)
    finally:
      self._running[key] -= counted

  def _checked_key(self, scope: Scope, headers: Headers) -> bytes:
    """The key of a call; empty where none is asked for. Raises ApiError for one that is not known."""
    if not self._keys or scope["path"] in self._open or scope["method"] == "OPTIONS":
      return b""
    kind, _, given = headers.get("authorization", "").partition(" ")
    key = given.strip().encode(errors="replace")
    # Every key is compared, whichever is right: the time says nothing.
    known = sum(hmac.compare_digest(key, one) for one in self._keys)
    if kind.lower() != "bearer" or not known:
      message = "no valid API key was given: send one as `Authorization: Bearer KEY`"
      raise ApiError(401, message, code="invalid_api_key")
    return key

  def _check_running(self, scope: Scope, key: bytes) -> None:
    most = self._settings.most_per_key
    if most is None or not key or scope["method"] != "POST" or self._running[key] < most:
      return
    message = f"this API key has {most} requests under way, the most allowed: wait until one of them has ended"
    raise ApiError(429, message, kind="rate_limit_error", code="rate_limit_exceeded", retry_after=1.0)

  def _check_length(self, headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and len(length) < 20 and int(length) > self._settings.most_body_bytes:
      raise _too_long(self._settings)


class _Bounded:
  """A body that is read up to a length, within a time."""

  def __init__(self, receive: Receive, settings: ServerSettings):
    self._receive, self._settings = receive, settings
    self._left = settings.most_body_bytes
    self._end: float | None = asyncio.get_running_loop().time() + settings.body_seconds

  async def __call__(self) -> Message:
    if self._end is None:
      return await self._receive()
    try:
      async with asyncio.timeout_at(self._end):
        message = await self._receive()
    except TimeoutError as error:
      most = f"{self._settings.body_seconds:g} s"
      raise ApiError(408, f"the body did not come within {most}: send it again", code="timeout") from error
    if message["type"] == "http.request":
      self._left -= len(message.get("body", b""))
      if self._left < 0:
        raise _too_long(self._settings)
    if not message.get("more_body", False):
      self._end = None
    return message


def _too_long(settings: ServerSettings) -> ApiError:
  message = f"the body has more than {settings.most_body_bytes} bytes: send less at a time"
  return ApiError(413, message, code="body_too_large")
