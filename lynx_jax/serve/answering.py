"""How chat and completions answer: at once or as a stream, unless the client leaves."""

import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol

from fastapi import Request
from msgspec import UNSET
from starlette.responses import Response

from lynx_jax.serve.errors import CLIENT_GONE, ApiError, refused
from lynx_jax.serve.exchange import Exchange, Growth
from lynx_jax.serve.schema import Decoding
from lynx_jax.serve.served import Served
from lynx_jax.serve.sse import ClientGone, EventStream, event, unless_gone
from lynx_jax.serve.wire import Answer, encode


class Writer(Protocol):
  """The form that one endpoint gives to what comes of the choices.

  Attributes:
    kind: the `object` of an answer.
    chunk_kind: the `object` of a chunk.
    extra: more fields of an answer, and of a stream's first chunk.
  """

  kind: str
  chunk_kind: str
  extra: Mapping[str, Any]

  def choice(self, grown: Growth) -> Any:
    """A whole choice."""
    ...

  def openings(self) -> list[Any]:
    """What a stream says before its first token, a choice each."""
    ...

  def chunk(self, grown: Growth) -> Any | None:
    """What a stream says of a growth; None if it shows nothing yet."""
    ...


def new_id(prefix: str) -> str:
  """A name for an answer."""
  return f"{prefix}-{uuid.uuid4().hex}"


def check_streaming(body: Decoding) -> None:
  """Raises ApiError for options of a stream where there is none."""
  if body.stream_options is not None and not body.stream:
    raise refused("stream_options", "given", "null without stream: true")


async def answer(
  request: Request, served: Served, body: Decoding, exchange: Exchange, writer: Writer, headers: Mapping[str, str]
) -> Response:
  """Runs an exchange and answers with what comes of it. Raises ApiError if it cannot run."""
  headers = {**headers, "x-request-id": exchange.id}
  await exchange.submit()
  if body.stream:
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    return EventStream(_events(served, exchange, writer, usage), headers, served.settings.reader_seconds)
  try:
    choices = await unless_gone(request.receive, exchange.whole())
  except ClientGone:
    return Response(status_code=CLIENT_GONE)
  made = _answer(served, exchange, writer.kind, [writer.choice(grown) for grown in choices], dict(writer.extra))
  made.usage = exchange.usage
  return Response(encode(made), headers=headers, media_type="application/json")


async def _events(served: Served, exchange: Exchange, writer: Writer, with_usage: bool) -> AsyncGenerator[bytes, None]:
  """The chunks of a stream, as events."""

  def chunk(choices: list[Any], **extra: Any) -> bytes:
    made = _answer(served, exchange, writer.chunk_kind, choices, extra)
    if with_usage:
      made.usage = extra.get("usage")
    return event(encode(made))

  growth = exchange.growth()
  try:
    openings = writer.openings()
    extra = dict(writer.extra)
    if openings or extra:
      yield chunk(openings, **extra)
    async for grown in growth:
      choices = [made for one in grown if (made := writer.chunk(one)) is not None]
      if choices:
        yield chunk(choices)
    if with_usage:
      yield chunk([], usage=exchange.usage)
    yield event(b"[DONE]")
  except ApiError as error:
    yield event(error.body)
  finally:
    await growth.aclose()


def _answer(served: Served, exchange: Exchange, kind: str, choices: list[Any], extra: dict[str, Any]) -> Answer:
  return Answer(
    id=exchange.id,
    object=kind,
    created=exchange.created,
    model=served.settings.model,
    system_fingerprint=served.fingerprint,
    choices=choices,
    prompt_token_ids=extra.get("prompt_token_ids", UNSET),
  )
