"""One step as data: what the scheduler decides, what the device returns.

A plan is complete and never changes, so it can be dispatched, recorded, and run again. Rows and chunks are tuples,
because a scheduler makes thousands of them a second.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from lynx_jax.engine.host.adjustments import AdjustedDraw, Adjustments
from lynx_jax.engine.host.constraint import MaskedDraw
from lynx_jax.engine.host.request import TopLogprobs
from lynx_jax.engine.host.sampling import Sampling
from pallas_kernels.checks import field_of, refusal, require, whole_fields, whole_number

BLOCK_SIZE = 32
"""Positions of a block of the paged cache."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
  """What stays the same for all rows and chunks of a sequence while it holds a slot; one object, compared by identity.

  Attributes:
    request_id: the request's name, for messages.
    prompt_tokens: of the request: LongRoPE rotates the positions of a long prompt in another way, from the first on.
    sequence: number of the sequence. No two have the same, whatever their requests are called, so results of a step
      in flight never reach a newcomer that has the slot or the name of a sequence that left.
    sampling: how tokens are drawn.
    stop_ids: tokens after which the row is dead on the device.
    exact: whether decode rows run the model's own experts; if not, they are adaptive and vote.
    weight: an adaptive row's say.
    logprobs: None, or how many of the likeliest tokens to report beside each drawn token's log-probability.
    prompt_logprobs: the same for the prompt's tokens.
    return_routing: whether to report the experts of each token.
    adjustments: of the logits; None if there are none.
    constrained: whether draws may take some tokens only, which depend on all tokens before.
  """

  request_id: str
  prompt_tokens: int
  sequence: int
  sampling: Sampling
  stop_ids: frozenset[int]
  exact: bool
  weight: float
  logprobs: int | None
  prompt_logprobs: int | None
  return_routing: bool
  adjustments: Adjustments | None = None
  constrained: bool = False


class DecodeRow(NamedTuple):
  """One token of a sequence that draws: the newest drawn in `slot`, which lies on the device and may be unknown here.

  A row that is dead on the device (its last token was a stop token, or its logits were not finite) neither writes,
  nor votes, nor draws.

  Attributes:
    slot: place of the sequence in all arrays by slot.
    position: of the token; its keys and values are written here, and it reads positions 0 to here.
    drawn: tokens that the sequence has drawn before; it picks the row's random number.
    table: the sequence's blocks in order of positions. The same object until it grows.
    settings: of the sequence.
  """

  slot: int
  position: int
  drawn: int
  table: tuple[int, ...]
  settings: RowSettings


class Chunk(NamedTuple):
  """Known tokens of one sequence at consecutive positions: always exact rows.

  Attributes:
    slot: place of the sequence in all arrays by slot.
    start: position of the first token.
    tokens: token ids.
    draws: whether the last token draws the sequence's next one. The slot is alive from then on.
    drawn: tokens that the sequence has drawn before.
    table: the sequence's blocks in order of positions, room for all of the chunk included.
    settings: of the sequence.
    targets: what prompt log-probabilities are wanted of: the token that follows each of the chunk's, as far as it
      belongs to the prompt. Empty if none are wanted.
  """

  slot: int
  start: int
  tokens: tuple[int, ...]
  draws: bool
  drawn: int
  table: tuple[int, ...]
  settings: RowSettings
  targets: tuple[int, ...] = ()

  @property
  def end(self) -> int:
    """Position after the last token."""
    return self.start + len(self.tokens)


class Program(NamedTuple):
  """A compiled program by its shape: `decode` holds `size` decode rows, `mixed` holds `size` tokens of rows and chunks.

  A plan may run in any larger program of its kind, and plans of decode rows alone in any mixed one that is as large.
  """

  kind: Literal["decode", "mixed"]
  size: int

  def __str__(self) -> str:
    return f"{self.kind}[{self.size}]"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
  """The shapes that a step may have.

  Attributes:
    decode: numbers of rows, rising.
    mixed: numbers of tokens, rising.
  """

  decode: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
  mixed: tuple[int, ...] = (128, 512)

  def __post_init__(self) -> None:
    for field in ("decode", "mixed"):
      where = field_of(self, field)
      sizes = tuple(whole_number(where, size, least=1) for size in getattr(self, field))
      require(bool(sizes) and sizes == tuple(sorted(set(sizes))), where, sizes, "rising sizes, at least one")
      object.__setattr__(self, field, sizes)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
  """All that a step needs.

  Attributes:
    number: of the step; results come back in this order.
    program: the smallest that holds the plan.
    rows: one token each of sequences that decode, the oldest first. Each slot takes part once in a step.
    chunks: parts of prompts, without gaps after the rows.
    limit: the most experts that the adaptive rows may read in a layer; None is no limit.
    adjusted: what draws change in their logits, for those that change any.
    masked: the tokens that draws may take, for those that may not take all.
  """

  number: int
  program: Program
  rows: tuple[DecodeRow, ...]
  chunks: tuple[Chunk, ...]
  limit: int | None = None
  adjusted: tuple[AdjustedDraw, ...] = ()
  masked: tuple[MaskedDraw, ...] = ()

  def __post_init__(self) -> None:
    if type(self.number) is not int or self.number < 0:
      whole_fields(self, "number", least=0)
    used = self.tokens
    # A scheduler makes thousands a second, so what messages need is put together for those that are wrong alone.
    if not 1 <= used <= self.program.size:
      require(used >= 1, field_of(self, "rows"), self.rows, "at least one row or chunk")
      raise refusal(field_of(self, "program"), self.program, f"room for {used} tokens")

  @property
  def tokens(self) -> int:
    """Tokens that the step computes, padding left out."""
    return len(self.rows) + sum([len(chunk.tokens) for chunk in self.chunks])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
  """What a step did, as plain Python lists by slot. Entries mean something only for slots that drew in the step.

  Attributes:
    token: the drawn token ids.
    finite: whether all logits of the row were finite; if not, its token means nothing.
    alive: whether the slot goes on: it drew, its logits were finite, and the token was no stop token.
    logprob: of the drawn token, in nats; means something for slots that asked for it, and is empty if none did.
    top: for slots that asked for them, the likeliest tokens.
    prompt_logprobs: for slots whose chunk has targets, one entry a target: its log-probability in nats and the
      likeliest tokens there.
    routing: for slots that asked for it, what the step reports of each of its tokens, such as arrays
      [MoE layers, experts a token], one a token.
    experts: distinct experts that the step read, one number a MoE layer; empty if not counted.
    own_experts: what it would have read by the model's own routing.
    retained: worth of their experts that adaptive rows keep, in the mean over rows and layers; 1 is unchanged.
  """

  token: Sequence[int]
  finite: Sequence[bool]
  alive: Sequence[bool]
  logprob: Sequence[float] = ()
  top: Mapping[int, TopLogprobs] = dataclasses.field(default_factory=dict)
  prompt_logprobs: Mapping[int, Sequence[tuple[float, TopLogprobs]]] = dataclasses.field(default_factory=dict)
  routing: Mapping[int, Sequence[object]] = dataclasses.field(default_factory=dict)
  experts: tuple[int, ...] = ()
  own_experts: tuple[int, ...] = ()
  retained: float = 1.0
