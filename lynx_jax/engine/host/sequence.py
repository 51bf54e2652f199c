"""A request while it lives: its tokens, its place in the cache, how far it has come."""

import dataclasses
import enum
from collections.abc import Iterable, Mapping

from lynx_jax.engine.host.adjustments import AdjustedDraw, adjusted_draw
from lynx_jax.engine.host.constraint import Constrained, ConstraintError, MaskedDraw
from lynx_jax.engine.host.detokenize import OutputText
from lynx_jax.engine.host.request import WEIGHTS, Fault, Finished, FinishReason, Request, TopLogprobs
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, RowSettings


class State(enum.Enum):
  """Where a sequence is. It holds a slot and blocks exactly while it is prefilling or decoding."""

  WAITING = "waiting"
  PREFILLING = "prefilling"
  DECODING = "decoding"
  FINISHED = "finished"


@dataclasses.dataclass(slots=True, eq=False)
class Sequence:
  """What the scheduler knows of one request. Only the scheduler changes it.

  There is no phase of prefill: a sequence has `done` computed positions and catches up with its tokens. Steps may be in
  flight, so some of its newest tokens may exist on the device only; `pending` counts them.

  Attributes:
    request: what was asked for.
    number: of the sequence; no two have the same.
    rank: place in the queue, the smallest first. It never changes, so who came first stays first after a preemption.
    settings: what the device is told of all its rows.
    tokens: the prompt, and what was drawn, here or before, as far as the host knows.
    state: where it is.
    slot: its place in arrays by slot, -1 while it holds none.
    table: its blocks in order of positions.
    keys: of its first blocks, as far as they are full and their tokens known.
    done: positions whose keys and values are written once all dispatched steps have run.
    pending: tokens drawn by dispatched steps whose results have not come.
    clean_keys: what the keys of its first blocks are if they are clean; a memo of the prefix cache.
    adaptive_from: the first position that is not the model's own, by an adaptive row or after one; None if all are.
    stale: whether some of its positions were computed with weights that were replaced since.
    overtaken: sequences behind it in the queue that were admitted before it.
    preemptions: how often it lost its blocks.
    cached_tokens: positions that it took from the prefix cache when it was first admitted; None before.
    text: of its output; None without a tokenizer.
    weights: versions of the weights that its tokens were drawn with.
    prompt_logprobs: of the prompt's tokens from the second on, as far as they are known.
    routing: what the steps reported of its positions, as far as they are known.
    counts_tokens: whether its draws depend on all tokens before.
    text_decides: whether the host should read its newest token before its next step, for this or for a stop string.
    constrained: what its draws may take; None is anything.
  """

  request: Request
  number: int
  rank: tuple[int, int]
  settings: RowSettings
  tokens: list[int]
  state: State = State.WAITING
  slot: int = -1
  table: tuple[int, ...] = ()
  keys: list[bytes] = dataclasses.field(default_factory=list)
  done: int = 0
  pending: int = 0
  clean_keys: list[bytes] = dataclasses.field(default_factory=list)
  adaptive_from: int | None = None
  stale: bool = False
  overtaken: int = 0
  preemptions: int = 0
  cached_tokens: int | None = None
  text: OutputText | None = None
  weights: list[int] = dataclasses.field(default_factory=list)
  prompt_logprobs: list[tuple[float, TopLogprobs]] = dataclasses.field(default_factory=list)
  routing: list[object] = dataclasses.field(default_factory=list)
  counts_tokens: bool = False
  text_decides: bool = False
  constrained: Constrained | None = None

  @property
  def drawn(self) -> int:
    """Tokens drawn by all dispatched steps."""
    return len(self.tokens) + self.pending - len(self.request.prompt)

  @property
  def is_particular(self) -> bool:
    """Whether its draws are told more than a sampling: what their logits change, or what they may take."""
    return self.settings.constrained or self.settings.adjustments is not None

  @property
  def missing(self) -> int:
    """Known tokens that no dispatched step has computed."""
    return len(self.tokens) - self.done

  @property
  def longest(self) -> int:
    """Positions that it may write in all: the last token that it draws is never computed."""
    return len(self.request.prompt) + max(self.request.max_new_tokens - 1, 0)

  @property
  def wants_token(self) -> bool:
    """Whether the next step may draw for it, by its own limit, and by its constraint, which must know all before."""
    return self.drawn < self.request.max_new_tokens and not (self.constrained and self.pending)

  def take(self, token: int, *, stopped: bool) -> tuple[FinishReason | None, str, str, Fault | None]:
    """Adds the next token that was drawn; `stopped` says that it is a stop token.

    Returns: how the sequence ends with it, None if it goes on; the text that it adds; what went wrong, and of which
    kind that was.
    """
    self.tokens.append(token)
    drawn = len(self.tokens) - len(self.request.prompt)
    reason: FinishReason | None = "stop" if stopped else "length" if drawn == self.request.max_new_tokens else None
    text, message, fault = "", "", None
    if self.constrained is not None and not stopped:
      try:
        if self.constrained.advance(token, drawn):
          reason = "stop"
      except ConstraintError as error:
        # After the last token it decides nothing any more.
        if reason is None:
          reason, message, fault = "error", str(error), "constraint"
    if self.text is not None:
      try:
        text, ended = self.text.feed(token, reason is not None)
      except Exception as error:  # a tokenizer can raise whatever it likes, and ends its own request only
        return "error", "", f"the tokenizer cannot decode token {token}: {error}", "tokenizer"
      if ended:
        reason, message, fault = "stop", "", None
    return reason, text, message, fault

  def finished(self, reason: FinishReason, message: str = "", fault: Fault | None = None) -> Finished:
    """What the caller is told of its end."""
    return Finished(
      reason=reason,
      message=message,
      fault=fault,
      prompt_tokens=len(self.request.prompt),
      cached_tokens=self.cached_tokens or 0,
      output_tokens=len(self.tokens) - len(self.request.prompt),
      preemptions=self.preemptions,
      weights=tuple(self.weights),
      routing=tuple(self.routing),
    )


def new_sequence(
  request: Request,
  number: int,
  rank: tuple[int, int],
  eos_ids: frozenset[int] = frozenset(),
  *,
  adaptive: bool = False,
  vocab: int | None = None,
) -> Sequence:
  """The waiting sequence of a request.

  Args:
    request: what is asked for.
    number: of the sequence.
    rank: its place in the queue.
    eos_ids: the model's own stop tokens.
    adaptive: whether the engine has a policy that changes routing.
    vocab: token ids of the model, which a constraint needs.

  Raises:
    ConstraintError: the request's constraint fails, or allows no token.
  """
  settings = RowSettings(
    request_id=request.id,
    prompt_tokens=len(request.prompt),
    sequence=number,
    sampling=request.sampling,
    stop_ids=request.stop_token_ids if request.ignore_eos else request.stop_token_ids | eos_ids,
    exact=not adaptive or request.quality == "exact",
    weight=WEIGHTS[request.quality],
    logprobs=request.logprobs,
    prompt_logprobs=request.prompt_logprobs,
    return_routing=request.return_routing,
    adjustments=request.adjustments if request.adjustments.changes else None,
    constrained=request.constraint is not None,
  )
  counts = request.adjustments.counts_tokens
  decides = counts or bool(request.stop_strings)
  tokens = [*request.prompt, *request.output_so_far]
  sequence = Sequence(request, number, rank, settings, tokens, counts_tokens=counts, text_decides=decides)
  if request.constraint is not None:
    assert vocab is not None
    sequence.constrained = Constrained(
      request.constraint, vocab, eos_ids=eos_ids, stop_ids=settings.stop_ids, least=request.adjustments.min_tokens,
      output=request.output_so_far,
    )  # fmt: skip
  return sequence


def adjusted_draws(
  rows: Iterable[DecodeRow], chunks: Iterable[Chunk], by_number: Mapping[int, Sequence]
) -> tuple[AdjustedDraw, ...]:
  """What the draws of a step change in their logits; nothing for most steps."""
  parts = [part for part in (*rows, *(chunk for chunk in chunks if chunk.draws)) if part.settings.adjustments]
  draws = []
  for part in parts:
    settings, sequence = part.settings, by_number[part.settings.sequence]
    assert settings.adjustments is not None
    prompt = len(sequence.request.prompt)
    draws.append(
      adjusted_draw(settings.adjustments, part.slot, sequence.tokens, prompt, part.drawn, settings.stop_ids)
    )  # fmt: skip
  return tuple(draws)


def masked_draws(
  rows: Iterable[DecodeRow], chunks: Iterable[Chunk], by_number: Mapping[int, Sequence]
) -> tuple[MaskedDraw, ...]:
  """The tokens that the draws of a step may take, for those that may not take all."""
  parts = [part for part in (*rows, *(chunk for chunk in chunks if chunk.draws)) if part.settings.constrained]
  draws = []
  for part in parts:
    constrained = by_number[part.settings.sequence].constrained
    assert constrained is not None
    draws.append(constrained.draw(part.slot))
  return tuple(draws)
