"""Sends a load to a server and notes when each part of each answer came."""

import asyncio
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx

from lynx_jax.bench.serve.asked import Asked

_SECONDS = 3600.0
"""For an answer to begin, or to go on: a full queue is measured and not given up."""


@dataclasses.dataclass(kw_only=True, slots=True)
class Observed:
  """What one request got. Times are seconds after the start of the load.

  Attributes:
    sent: when it was sent.
    came: when each chunk with new tokens came.
    prompt_tokens, output_tokens: as the server counted them; 0 if it did not say.
    ended: when its answer had ended.
    error: what went wrong; None for a whole answer.
  """

  sent: float
  came: list[float] = dataclasses.field(default_factory=list)
  prompt_tokens: int = 0
  output_tokens: int = 0
  ended: float = 0.0
  error: str | None = None


async def send_load(
  url: str,
  asked: Sequence[Asked],
  *,
  key: str | None = None,
  at_once: int | None = None,
  progress: Callable[[int], None] = lambda done: None,
) -> list[Observed]:
  """Sends every request at its time and reads all answers; returns what each got, in the order of `asked`.

  Args:
    url: of the server, with or without `/v1` at its end.
    asked: in the order of their times.
    key: of the server.
    at_once: requests that are under way at most: as many clients, each with one request at a time. None is no bound.
    progress: called with the number of answers that have ended.
  """
  base = url.rstrip("/").removesuffix("/v1")
  headers = {} if key is None else {"authorization": f"Bearer {key}"}
  limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
  room = asyncio.Semaphore(at_once or len(asked) or 1)
  ended = 0
  async with httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=_SECONDS) as client:
    begin = time.perf_counter()

    async def one(request: Asked) -> Observed:
      nonlocal ended
      await asyncio.sleep(max(0.0, begin + request.at - time.perf_counter()))
      async with room:
        found = await observe(client, request, lambda: time.perf_counter() - begin)
      ended += 1
      progress(ended)
      return found

    return list(await asyncio.gather(*(one(request) for request in asked)))


async def observe(client: httpx.AsyncClient, request: Asked, clock: Callable[[], float]) -> Observed:
  """Sends one request and reads its answer to the end."""
  found = Observed(sent=clock())
  try:
    async with client.stream("POST", request.path, json=request.body) as answer:
      if answer.status_code != httpx.codes.OK:
        found.error = f"{answer.status_code} {_message(await answer.aread())}"
      else:
        await _read(answer, found, clock)
  except httpx.HTTPError as error:
    found.error = f"{type(error).__name__} {error}".strip()
  found.ended = clock()
  return found


async def _read(answer: httpx.Response, found: Observed, clock: Callable[[], float]) -> None:
  done = False
  async for data in events(answer.aiter_raw()):
    if data == b"[DONE]":
      done = True
      continue
    chunk = json.loads(data)
    if (error := chunk.get("error")) is not None:
      found.error = str(error.get("message", error))
      return
    if any(has_tokens(choice) for choice in chunk.get("choices", ())):
      found.came.append(clock())
    if (usage := chunk.get("usage")) is not None:
      found.prompt_tokens = usage.get("prompt_tokens", 0)
      found.output_tokens = usage.get("completion_tokens", 0)
  if not done:
    found.error = "the stream broke off"


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
  """The data of server-sent events, one line each, from bytes that are cut anywhere."""
  rest = b""
  async for part in parts:
    *lines, rest = (rest + part).split(b"\n")
    for line in lines:
      if line.startswith(b"data:"):
        yield line[5:].strip()


def has_tokens(choice: Mapping[str, Any]) -> bool:
  """Whether a choice of a chunk brings new tokens, of whatever kind."""
  delta = choice.get("delta") or {}
  kinds = (delta.get("content"), delta.get("reasoning_content"), delta.get("reasoning"), delta.get("tool_calls"))
  return bool(choice.get("token_ids") or choice.get("text") or any(kinds))


def _message(body: bytes) -> str:
  try:
    return str(json.loads(body)["error"]["message"])
  except (ValueError, LookupError, TypeError):
    return body[:200].decode(errors="replace")
