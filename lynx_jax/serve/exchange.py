"""One call of an endpoint: its requests in the engine, and what they get, choice by choice."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence

from lynx_jax.engine.async_engine import AsyncAnswers
from lynx_jax.engine.core import EngineDead
from lynx_jax.engine.host.request import Finished, Piece, Request, TopLogprobs
from lynx_jax.serve.errors import ApiError, engine_error
from lynx_jax.serve.metrics import RequestMeter
from lynx_jax.serve.served import Served
from lynx_jax.serve.wire import CachedTokens, Routing, Usage


@dataclasses.dataclass(slots=True)
class Growth:
  """What came of one choice.

  Attributes:
    index: of the choice.
    text: new text.
    token_ids: new tokens.
    logprobs: theirs.
    top_logprobs: of the likely tokens beside them; one entry a token, where asked for.
    prompt_logprobs: of the prompt's tokens, where asked for, with the first tokens.
    finished: how it ended; None while it goes on.
  """

  index: int
  text: str = ""
  token_ids: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  top_logprobs: list[TopLogprobs] = dataclasses.field(default_factory=list)
  prompt_logprobs: tuple[tuple[float, TopLogprobs], ...] = ()
  finished: Finished | None = None

  def add(self, piece: Piece) -> None:
    """Adds what a step gave."""
    self.text += piece.text
    self.token_ids += piece.token_ids
    self.logprobs += piece.logprobs
    self.top_logprobs += piece.top_logprobs
    self.prompt_logprobs = piece.prompt_logprobs or self.prompt_logprobs
    self.finished = piece.finished

  @property
  def reason(self) -> str | None:
    """OpenAI's word for the end, or `abort`."""
    return None if self.finished is None else self.finished.reason

  @property
  def routing(self) -> Routing:
    """The experts of every token, prompt included."""
    assert self.finished is not None
    return [layers.tolist() for layers in self.finished.routing]  # pyright: ignore[reportAttributeAccessIssue]


class Exchange:
  """The requests of one call while they run.

  Attributes:
    id: of the answer.
    created: Unix time.
    usage: of the requests that have ended.
  """

  def __init__(self, served: Served, answer_id: str, requests: Sequence[Request], samples: int):
    """For `requests`, of which each `samples` have one prompt."""
    self.id, self.created = answer_id, int(time.time())
    self.usage = Usage(0, 0, 0, CachedTokens(0))
    self._served, self._requests, self._samples = served, list(requests), samples
    self._index = {request.id: index for index, request in enumerate(requests)}
    self._meters = [RequestMeter(served.metrics, request) for request in requests]
    self._answers: AsyncAnswers | None = None

  async def submit(self) -> None:
    """Lets the requests run. Raises ApiError if they cannot."""
    self._answers = await self._served.submit(self._requests)
    self._served.metrics.accepted += len(self._requests)

  async def growth(self) -> AsyncGenerator[list[Growth], None]:
    """What has come of the choices since the last turn. Leaving early ends the requests.

    Raises:
      ApiError: a request has failed, or the engine has.
    """
    async with contextlib.aclosing(self._arrivals()) as arrivals:
      async for pieces in arrivals:
        yield self._merged(pieces)

  async def whole(self) -> list[Growth]:
    """All that comes of the choices. Raises as `growth`."""
    choices = [Growth(index) for index in range(len(self._requests))]
    async with contextlib.aclosing(self._arrivals()) as arrivals:
      async for pieces in arrivals:
        for piece in pieces:
          self._note(piece, choices[self._index[piece.request_id]])
    return choices

  async def _arrivals(self) -> AsyncGenerator[list[Piece], None]:
    """What steps gave the requests; however this ends, they end with it."""
    assert self._answers is not None
    try:
      yield await self._first(self._answers)
      while not self._answers.ended:
        yield await self._answers.take()
    except EngineDead as error:
      raise engine_error(error, self._served.retry_after) from error
    finally:
      self._answers.leave()
      for meter in self._meters:
        meter.close()

  async def _first(self, answers: AsyncAnswers) -> list[Piece]:
    """The first pieces of any choice. Raises ApiError if they do not come in time."""
    most = self._served.settings.wait_seconds
    try:
      async with asyncio.timeout(most):
        return await answers.take()
    except TimeoutError as error:
      message = f"no token came within {most:g} s: the server is busy, send the request again later"
      raise ApiError(408, message, kind="server_error", code="timeout", retry_after=self._served.retry_after) from error

  def _merged(self, pieces: list[Piece]) -> list[Growth]:
    """One growth a choice, however many steps were waited for."""
    by_index: dict[int, Growth] = {}
    for piece in pieces:
      index = self._index[piece.request_id]
      grown = by_index.get(index)
      if grown is None:
        grown = by_index[index] = Growth(index)
      self._note(piece, grown)
    return list(by_index.values())

  def _note(self, piece: Piece, grown: Growth) -> None:
    """Adds a piece to what its choice has, and counts it."""
    grown.add(piece)
    self._meters[grown.index].note(piece)
    finished = piece.finished
    if finished is None:
      return
    if finished.fault == "constraint":
      # The client's own form.
      raise ApiError(400, finished.message, code="constraint_failed")
    if finished.reason == "error":
      raise ApiError(500, finished.message, kind="server_error", code="request_failed")
    usage = self.usage
    usage.completion_tokens += finished.output_tokens
    if grown.index % self._samples == 0:
      # Samples of one prompt share it.
      usage.prompt_tokens += finished.prompt_tokens
      usage.prompt_tokens_details.cached_tokens += finished.cached_tokens
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens
