"""/v1/chat/completions."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from msgspec import UNSET
from starlette.responses import Response

from lynx_jax.engine.host.request import TopLogprobs
from lynx_jax.serve.answering import answer, check_streaming, new_id
from lynx_jax.serve.chat_turns import Turn
from lynx_jax.serve.engine_requests import check_fields, ignored_header, requests_of
from lynx_jax.serve.errors import ERRORS, refused
from lynx_jax.serve.exchange import Exchange, Growth
from lynx_jax.serve.prompts import Prompt, read_chat
from lynx_jax.serve.schema import ChatBody
from lynx_jax.serve.served import Served
from lynx_jax.serve.structured import asked_form, constraint_of
from lynx_jax.serve.tool_use import ToolUse, read_tools
from lynx_jax.serve.wire import (
  ChatChoice,
  ChatLogprobs,
  Delta,
  DeltaChoice,
  TokenLogprob,
  TopLogprob,
  finite,
)  # fmt: skip
from lynx_jax.text.token_texts import TokenTexts


def chat_routes(served: Served) -> APIRouter:
  """The routes of chats."""
  router = APIRouter()

  @router.post("/v1/chat/completions", responses=ERRORS)
  async def chat_completions(body: ChatBody, request: Request) -> Response:
    """Answers a conversation."""
    served.check_model(body.model)
    unknown = check_fields(served, body)
    check_streaming(body)
    use, form = read_tools(body, served.turns), asked_form(body)
    served.check_open()
    options = _options(body, use)
    prompt = await read_chat(served, body.messages, options, open_end=bool(body.continue_final_message))
    constraint = await constraint_of(served, form, use, prompt.text)
    answer_id = new_id("chatcmpl")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    requests = requests_of(
      served, body, [prompt], answer_id, max_new_tokens=_most_tokens(body), logprobs=logprobs, constraint=constraint,
      text_ids=served.marks if use.tools or served.turns.reasoning else frozenset(),
    )  # fmt: skip
    exchange = Exchange(served, answer_id, requests, len(requests))
    writer = ChatWriter(served, body, prompt, use)
    return await answer(request, served, body, exchange, writer, ignored_header(unknown))

  return router


class ChatWriter:
  """The form of chats."""

  kind, chunk_kind = "chat.completion", "chat.completion.chunk"

  def __init__(self, served: Served, body: ChatBody, prompt: Prompt, use: ToolUse):
    """For what `body` asks for."""
    assert served.texts is not None
    assert prompt.text is not None
    self._texts: TokenTexts = served.texts
    self._turns = [Turn(served.turns, use, prompt.text) for _ in range(body.n or 1)]
    self._logprobs, self._ids = bool(body.logprobs), bool(body.return_token_ids)
    self._routing = bool(body.return_routing)
    self.extra: Mapping[str, Any] = {"prompt_token_ids": list(prompt.ids)} if self._ids else {}

  def choice(self, grown: Growth) -> ChatChoice:
    """A whole answer."""
    turn = self._turns[grown.index]
    return ChatChoice(
      index=grown.index,
      message=turn.message(grown),
      logprobs=self._logprobs_of(grown),
      finish_reason=turn.reason(grown),
      token_ids=grown.token_ids if self._ids else UNSET,
      routing=grown.routing if self._routing else UNSET,
    )

  def openings(self) -> list[DeltaChoice]:
    """Who speaks, in every choice."""
    return [DeltaChoice(index, Delta(role="assistant", content="")) for index in range(len(self._turns))]

  def chunk(self, grown: Growth) -> DeltaChoice | None:
    """What came of one answer."""
    turn = self._turns[grown.index]
    delta = turn.delta(grown)
    if delta == Delta() and grown.finished is None and not self._logprobs and not self._ids:
      return None
    made = DeltaChoice(grown.index, delta, self._logprobs_of(grown), turn.reason(grown))
    if self._ids:
      made.token_ids = grown.token_ids
    if self._routing and grown.finished is not None:
      made.routing = grown.routing
    return made

  def _logprobs_of(self, grown: Growth) -> ChatLogprobs | None:
    if not self._logprobs:
      return None
    entries = zip(grown.token_ids, grown.logprobs, grown.top_logprobs or [()] * len(grown.token_ids), strict=True)
    return ChatLogprobs([self._logprob(token, logprob, top) for token, logprob, top in entries])

  def _logprob(self, token: int, logprob: float, top: TopLogprobs) -> TokenLogprob:
    texts = self._texts
    likely = [TopLogprob(texts.text_of(one), finite(value), list(texts.bytes_of(one))) for one, value in top]
    return TokenLogprob(texts.text_of(token), finite(logprob), list(texts.bytes_of(token)), likely)


def _options(body: ChatBody, use: ToolUse) -> dict[str, Any]:
  """What the template is told beside the messages."""
  options = dict(body.chat_template_kwargs or {})
  for name in ("messages", "chat_template", "tokenize", "tools"):
    if name in options:
      raise refused(f"chat_template_kwargs.{name}", "given", "other names; the template and the messages are fixed")
  if use.shown is not None:
    options["tools"] = use.shown
  if body.reasoning_effort is not None:
    options.setdefault("reasoning_effort", body.reasoning_effort)
  if body.continue_final_message and body.add_generation_prompt:
    raise refused("continue_final_message", True, "false with add_generation_prompt")
  options["add_generation_prompt"] = body.add_generation_prompt is not False
  return options


def _most_tokens(body: ChatBody) -> int | None:
  if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
    raise refused("max_tokens", body.max_tokens, "max_completion_tokens alone")
  return body.max_completion_tokens or body.max_tokens
