"""/v1/completions."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request
from msgspec import UNSET
from starlette.responses import Response

from lynx_jax.engine.host.request import TopLogprobs
from lynx_jax.serve.answering import answer, check_streaming, new_id
from lynx_jax.serve.engine_requests import check_fields, ignored_header, requests_of
from lynx_jax.serve.errors import ERRORS, refused
from lynx_jax.serve.exchange import Exchange, Growth
from lynx_jax.serve.prompts import Prompt, read_prompts
from lynx_jax.serve.schema import CompletionBody
from lynx_jax.serve.served import Served
from lynx_jax.serve.structured import asked_form, constraint_of
from lynx_jax.serve.wire import TextChoice, TextLogprobs, finite

_FEW_TOKENS = 16
"""New tokens where a completion does not say how many, as OpenAI has it."""


def completion_routes(served: Served) -> APIRouter:
  """The routes of completions."""
  router = APIRouter()

  @router.post("/v1/completions", responses=ERRORS)
  async def completions(body: CompletionBody, request: Request) -> Response:
    """Continues prompts: a text, token ids, or several of either."""
    served.check_model(body.model)
    unknown = check_fields(served, body)
    check_streaming(body)
    samples = body.n or 1
    if body.best_of not in (None, samples):
      raise refused("best_of", body.best_of, f"n, which is {samples}; the best of more is not chosen")
    form = asked_form(body)
    served.check_open()
    prompts = await read_prompts(served, body.prompt, served.settings.most_choices)
    answer_id = new_id("cmpl")
    new_tokens = _FEW_TOKENS if body.max_tokens is None else body.max_tokens
    requests = requests_of(
      served, body, prompts, answer_id, max_new_tokens=new_tokens, logprobs=body.logprobs,
      prompt_logprobs=body.logprobs if body.echo else None, constraint=await constraint_of(served, form),
    )  # fmt: skip
    exchange = Exchange(served, answer_id, requests, samples)
    writer = CompletionWriter(served, body, prompts)
    return await answer(request, served, body, exchange, writer, ignored_header(unknown))

  return router


class CompletionWriter:
  """The form of completions."""

  kind = chunk_kind = "text_completion"
  extra: Mapping[str, Any] = {}

  def __init__(self, served: Served, body: CompletionBody, prompts: Sequence[Prompt]):
    """For what `body` asks for."""
    samples = body.n or 1
    self._texts, self._tokenizer = served.texts, served.tokenizer
    self._prompts = [prompt for prompt in prompts for _ in range(samples)]
    self._logprobs, self._echo, self._ids = body.logprobs, bool(body.echo), bool(body.return_token_ids)
    self._routing = bool(body.return_routing)
    self._begun = [False] * len(self._prompts)
    self._offsets = [0] * len(self._prompts)

  def choice(self, grown: Growth) -> TextChoice:
    """A whole completion."""
    return self._made(grown)

  def openings(self) -> list[TextChoice]:
    """Nothing."""
    return []

  def chunk(self, grown: Growth) -> TextChoice | None:
    """What came of one completion."""
    shows = grown.text or grown.finished is not None or self._logprobs is not None or self._ids
    return self._made(grown) if shows or (self._echo and not self._begun[grown.index]) else None

  def _made(self, grown: Growth) -> TextChoice:
    prompt, first = self._prompts[grown.index], not self._begun[grown.index]
    self._begun[grown.index] = True
    echo = first and self._echo
    made = TextChoice(
      index=grown.index,
      text=(self._text_of(prompt) if echo else "") + grown.text,
      logprobs=None if self._logprobs is None else self._logprobs_of(grown, prompt if echo else None),
      finish_reason=grown.reason,
    )
    if self._ids:
      made.token_ids = grown.token_ids
      made.prompt_token_ids = list(prompt.ids) if first else UNSET
    if self._routing and grown.finished is not None:
      made.routing = grown.routing
    return made

  def _text_of(self, prompt: Prompt) -> str:
    """The prompt as it is echoed."""
    if prompt.text is not None:
      return prompt.text
    return "" if self._tokenizer is None else self._tokenizer.decode(prompt.ids)

  def _logprobs_of(self, grown: Growth, prompt: Prompt | None) -> TextLogprobs:
    """Log-probabilities of new tokens, after those of a prompt that is echoed."""
    made = TextLogprobs([], [], [] if self._logprobs else None, [])
    if prompt is not None:
      self._append(made, grown.index, prompt.ids[0], None, ())
      for token, (logprob, top) in zip(prompt.ids[1:], grown.prompt_logprobs, strict=True):
        self._append(made, grown.index, token, logprob, top)
    entries = zip(grown.token_ids, grown.logprobs, grown.top_logprobs or [()] * len(grown.token_ids), strict=True)
    for token, logprob, top in entries:
      self._append(made, grown.index, token, logprob, top)
    return made

  def _append(self, made: TextLogprobs, index: int, token: int, logprob: float | None, top: TopLogprobs) -> None:
    text = self._name(token)
    made.tokens.append(text)
    made.token_logprobs.append(None if logprob is None else finite(logprob))
    made.text_offset.append(self._offsets[index])
    self._offsets[index] += len(text)
    if made.top_logprobs is None:
      return
    if logprob is None:
      made.top_logprobs.append(None)
      return
    likely = {text: finite(logprob)}
    for one, value in top:
      # Bytes of several tokens may read alike; the likeliest is named.
      likely.setdefault(self._name(one), finite(value))
    made.top_logprobs.append(likely)

  def _name(self, token: int) -> str:
    return f"token_id:{token}" if self._texts is None else self._texts.text_of(token)
