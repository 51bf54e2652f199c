"""What a caller asks for and what it is told: requests, pieces of their output, their ends."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from lynx_jax.engine.host.adjustments import Adjustments
from lynx_jax.engine.host.constraint import Constraint
from lynx_jax.engine.host.sampling import Sampling
from pallas_kernels.checks import field_of, plain_number, refusal, require, whole_fields

Quality: TypeAlias = Literal["exact", "high", "standard", "economy"]
WEIGHTS: dict[Quality, float] = {"exact": 1.0, "high": 4.0, "standard": 1.0, "economy": 0.25}
"""The say of a request's rows in a batch-aware policy. Rows of `exact` do not vote: they run the model's experts."""
FinishReason: TypeAlias = Literal["stop", "length", "abort", "error"]
Fault: TypeAlias = Literal["logits", "tokenizer", "constraint"]
"""What ended a request by an error: logits that are not finite, a tokenizer that cannot decode a token, a constraint
that fails or leaves nothing to draw."""
TopLogprobs: TypeAlias = tuple[tuple[int, float], ...]
"""The most likely tokens of one position with their log-probabilities in nats, the likeliest first."""

MOST_LOGPROBS = 20
MOST_STOP_STRINGS = 16
MOST_PRIORITY = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
  """One prompt to continue. Several samples of a prompt are several requests; they share the prompt's blocks.

  Attributes:
    id: the caller's name for it; no two live requests have the same.
    prompt: token ids, at least one.
    max_new_tokens: how many tokens to draw at most; 0 only scores the prompt.
    output_so_far: the output's first tokens, which another engine drew before it was lost; `max_new_tokens` counts them
      too. The output goes on as if this engine had drawn them: random numbers, penalties, `min_tokens`, the constraint,
      stop strings and text follow on. Pieces begin after them.
    sampling: how tokens are drawn.
    stop_token_ids: tokens that end the output, besides the model's own; the one that was drawn is part of it.
    stop_strings: strings that end the output; they are not part of its text.
    ignore_eos: whether the model's own stop tokens are tokens like any other.
    adjustments: what changes in the logits before a token is drawn.
    constraint: what the output must be, token by token; None is anything.
    text_ids: special tokens that the text shows; it leaves out all others.
    quality: what a batch-aware policy may do to this request. `exact` runs the model's own experts, bit for bit;
      the others vote on the batch's experts with a weight of 4, 1 or 1/4.
    priority: one level goes ahead of the requests submitted in the 64 places before it; the larger, the sooner.
    cache_salt: requests share cached blocks only with requests of the same salt.
    logprobs: None, or how many of the likeliest tokens to report beside each drawn token's log-probability.
    prompt_logprobs: the same for the prompt's tokens; such a request computes its whole prompt.
    return_routing: whether to report the experts of each token; such a request computes its whole prompt.
    deterministic: whether to refuse an engine that does not promise the same bits whatever else runs.
  """

  id: str
  prompt: tuple[int, ...]
  max_new_tokens: int = 64
  output_so_far: tuple[int, ...] = ()
  sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
  stop_token_ids: frozenset[int] = frozenset()
  stop_strings: tuple[str, ...] = ()
  ignore_eos: bool = False
  adjustments: Adjustments = Adjustments()  # noqa: RUF009 (frozen)
  constraint: Constraint | None = None
  text_ids: frozenset[int] = frozenset()
  quality: Quality = "standard"
  priority: int = 0
  cache_salt: str = ""
  logprobs: int | None = None
  prompt_logprobs: int | None = None
  return_routing: bool = False
  deterministic: bool = False

  def __post_init__(self) -> None:
    require(isinstance(self.id, str) and bool(self.id), field_of(self, "id"), self.id, "a string that is not empty")
    _token_ids(self, "prompt", tuple)
    require(bool(self.prompt), field_of(self, "prompt"), self.prompt, "at least one token id")
    whole_fields(self, "max_new_tokens", least=0, remedy="0 only scores the prompt")
    self._check_output_so_far()
    _token_ids(self, "stop_token_ids", frozenset)
    _token_ids(self, "text_ids", frozenset)
    self._check_stop_strings()
    qualities = get_args(Quality)
    require(self.quality in qualities, field_of(self, "quality"), self.quality, f"one of {', '.join(qualities)}")
    whole_fields(self, "priority", least=-MOST_PRIORITY, most=MOST_PRIORITY, remedy="0 is usual")
    for field in ("logprobs", "prompt_logprobs"):
      if getattr(self, field) is not None:
        whole_fields(self, field, least=0, most=MOST_LOGPROBS, remedy="None reports none")
    if self.constraint is not None:
      remedy = "its start() gives the state of an output"
      where = field_of(self, "constraint")
      require(isinstance(self.constraint, Constraint), where, self.constraint, "a Constraint", remedy)
      remedy = "a constraint says where the output may end"
      require(not self.ignore_eos, field_of(self, "ignore_eos"), self.ignore_eos, "False with a constraint", remedy)
    if self.deterministic:
      remedy = "a policy's choice depends on the batch; ask for quality='exact'"
      require(self.quality == "exact", field_of(self, "quality"), self.quality, "'exact' if deterministic", remedy)

  def _check_output_so_far(self) -> None:
    _token_ids(self, "output_so_far", tuple)
    if not self.output_so_far:
      return
    where, known = field_of(self, "output_so_far"), len(self.output_so_far)
    remedy = "an output that is whole does not go on"
    expected = f"fewer tokens than max_new_tokens, {self.max_new_tokens}"
    require(known < self.max_new_tokens, where, f"{known} tokens", expected, remedy)
    remedy = "they came with the first of these tokens"
    require(self.prompt_logprobs is None, field_of(self, "prompt_logprobs"), self.prompt_logprobs,
            "None beside output_so_far", remedy)  # fmt: skip

  def _check_stop_strings(self) -> None:
    where, given = field_of(self, "stop_strings"), self.stop_strings
    strings = isinstance(given, Sequence) and not isinstance(given, str)
    strings = strings and all(isinstance(text, str) and text for text in given)
    require(strings, where, given, "a tuple of strings, none empty")
    require(len(given) <= MOST_STOP_STRINGS, where, given, f"at most {MOST_STOP_STRINGS} strings")
    object.__setattr__(self, "stop_strings", tuple(given))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
  """How a request ended.

  Attributes:
    reason: `stop` (a stop token or string), `length` (all tokens that it asked for), `abort` (by the caller or by
      a drain that ran out of time), `error`.
    message: what went wrong, where something did.
    fault: of which kind it was, for programs; None unless the reason is `error`.
    prompt_tokens: of the prompt.
    cached_tokens: of the prompt, taken from the prefix cache when it was first read.
    output_tokens: that were drawn.
    preemptions: how often the request lost its blocks and was computed again.
    weights: the versions of the weights that its tokens were drawn with, in order.
    routing: what the steps reported of each position's experts, where asked for.
    seconds: from its submission to its end; not compared.
    first_token_seconds: to its first token; None if it drew none.
  """

  reason: FinishReason
  message: str = ""
  fault: Fault | None = None
  prompt_tokens: int = 0
  cached_tokens: int = 0
  output_tokens: int = 0
  preemptions: int = 0
  weights: tuple[int, ...] = ()
  routing: tuple[object, ...] = ()
  seconds: float = dataclasses.field(default=0.0, compare=False)
  first_token_seconds: float | None = dataclasses.field(default=None, compare=False)


class Piece(NamedTuple):
  """What one step gave a request. A tuple, because an engine makes thousands a second.

  Attributes:
    request_id: the request's name.
    token_ids: the new tokens, in order; none if the request ended without one.
    text: the new text. It may lag behind the tokens, inside a character or at what may begin a stop string.
    logprobs: of the new tokens, in nats, where asked for.
    top_logprobs: for each new token, the likeliest tokens, where asked for.
    prompt_logprobs: of the prompt's tokens from the second on, with the likeliest; on the first piece, where asked for.
    finished: set on the request's last piece.
  """

  request_id: str
  token_ids: tuple[int, ...] = ()
  text: str = ""
  logprobs: tuple[float, ...] = ()
  top_logprobs: tuple[TopLogprobs, ...] = ()
  prompt_logprobs: tuple[tuple[float, TopLogprobs], ...] = ()
  finished: Finished | None = None


class Overloaded(RuntimeError):  # noqa: N818 (a state of the engine, not a fault of the request)
  """The engine takes no more requests now: its queue is full, or it drains. The same request may succeed later."""


def _token_ids(owner: object, field: str, kind: type[tuple] | type[frozenset]) -> None:
  """Checks that a field holds token ids, and stores them as plain ints."""
  given = getattr(owner, field)
  expected = "token ids: whole numbers of at least 0"
  if isinstance(given, str | bytes) or not isinstance(given, Iterable):
    raise refusal(field_of(owner, field), given, expected)
  if type(given) is not kind or not all(type(token) is int and token >= 0 for token in given):
    ids = [plain_number(token) for token in given]
    require(all(isinstance(one, int) and one >= 0 for one in ids), field_of(owner, field), given, expected)
    object.__setattr__(owner, field, kind(ids))
