"""Text in, text out: `generate` waits for whole completions, `stream` hands out pieces as they are decoded."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from lynx_jax.engine.buckets import bucket
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.request import Piece as EnginePiece
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.engine.memory import out_of_memory_explained
from lynx_jax.engine.prompts import Prompts, encode_prompts
from lynx_jax.engine.report import RoutingReport, report
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy, as_policy
from lynx_jax.text.chat import Chats
from pallas_kernels.checks import shown, whole_number

FinishReason = Literal["stop", "length"]

# Rows that decode together, and tokens of prompts that one step reads, at most.
_MOST_ROWS, _MOST_TOKENS = 64, 512


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
  """One prompt's result.

  Attributes:
    text: the new text, ending before a stop string; empty where the model has no tokenizer.
    token_ids: the new tokens, a final stop token included.
    finish_reason: `stop` (a stop token or string) or `length` (max_new_tokens, or the model's context).
    stats: what the policy did over the whole batch, where `stats=True` was asked for.
  """

  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason
  stats: RoutingReport | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
  """The next bit of one row.

  Attributes:
    row: index of the prompt.
    text: new text; pieces of a row join to its completion's text.
    token_ids: the tokens decoded since the last piece; text may lag behind, inside a character or a stop string.
    finish_reason: set on the row's last piece.
    stats: on the last piece of all, where asked for.
  """

  row: int
  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason | None
  stats: RoutingReport | None = None


def generate(
  params: Params,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: str | Sequence[str] = (),
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
) -> list[Completion]:
  """Completes `prompts` as one batch.

  Args:
    params: a loaded model.
    prompts: a string, strings, or lists of token ids; with `chat`, users' messages, or lists of messages with `role`
      and `content` (one list is one conversation).
    max_new_tokens: tokens to add at most, for all rows or one number a prompt.
    policy: which experts decode steps run, as a policy or as text such as "lynx:alpha=3,beta=2"; None is the model's
      own routing. With a batch-aware policy a row's text depends on the rows that it shares the batch with.
    sampling: for all rows (each with its own random stream), or one a prompt.
    stop: strings that end a row; they are not part of the text.
    stats: whether to report distinct experts, retained mass and bytes (`Completion.stats`, one report a batch).
    chat: whether prompts are conversations to answer, by the model's own chat template; a mapping sets variables that
      the template knows, such as `{"enable_thinking": False}`.

  Returns:
    One completion a prompt, in order, of the new tokens only.

  Raises:
    ValueError: an empty or too long prompt, a token id outside the vocabulary, a string without a tokenizer, `chat`
      without a template, a policy that keeps fewer experts than a token runs. The message names the prompt.
    TypeError: an argument of another kind.
    OutOfMemoryError: a MemoryError that says how much the batch takes and what to lower.
    FloatingPointError: the model produced NaN logits.
  """
  batch = _Batch(params, prompts, max_new_tokens, policy, sampling, stop, stats, chat)
  rows: list[list[Piece]] = [[] for _ in batch.prompts]
  for piece in batch.pieces():
    rows[piece.row].append(piece)
  return [_completion(pieces, batch.report()) for pieces in rows]


def _completion(pieces: list[Piece], stats: RoutingReport | None) -> Completion:
  """The whole of a row's pieces."""
  tokens = tuple(token for piece in pieces for token in piece.token_ids)
  return Completion("".join(piece.text for piece in pieces), tokens, pieces[-1].finish_reason or "length", stats)


def stream(
  params: Params,
  prompts: Prompts | Chats,
  *,
  max_new_tokens: int | Sequence[int] = 64,
  policy: RoutingPolicy | str | None = None,
  sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008 (frozen)
  stop: str | Sequence[str] = (),
  stats: bool = False,
  chat: bool | Mapping[str, Any] = False,
) -> Iterator[Piece]:
  """As `generate`, token by token: the pieces of a row join to the completion that `generate` gives."""
  return _Batch(params, prompts, max_new_tokens, policy, sampling, stop, stats, chat).pieces()


class _Batch:
  """The prompts of one call, from text to finished rows, on an engine that is made for them."""

  def __init__(
    self,
    params: Params,
    prompts: Prompts | Chats,
    max_new_tokens: int | Sequence[int],
    policy: RoutingPolicy | str | None,
    sampling: Sampling | Sequence[Sampling],
    stop: str | Sequence[str],
    stats: bool,
    chat: bool | Mapping[str, Any],
  ):
    self.params = _model(params)
    self.policy = _policy(policy, params.spec)
    self.stops = _stops(params, stop)
    self.prompts = encode_prompts(params, prompts, chat)
    self.limits = _limits(max_new_tokens, len(self.prompts))
    self.sampling = _sampling(sampling, len(self.prompts))
    self.stats = stats
    self.core: EngineCore | None = None

  def pieces(self) -> Iterator[Piece]:
    """What each step gives the rows, in the order of rows."""
    left = len(self.prompts)
    with out_of_memory_explained(self.params, self.settings.slots, self.settings.positions(self.params.spec)):
      core = self.core = EngineCore(self.params, self.settings, recovers=False)
      for index in range(left):
        core.submit(self._request(index))
      while left:
        for given in sorted(core.step(), key=lambda piece: int(piece.request_id)):
          left -= given.finished is not None
          yield self._piece(given, last=left == 0)

  def report(self) -> RoutingReport | None:
    """The routing statistics of the whole decode."""
    return report(self.core.log.decoding, self.params.decoder) if self.stats and self.core else None

  @property
  def settings(self) -> EngineSettings:
    """An engine for these prompts. Sizes are rounded up, so that few programs are compiled."""
    longest = max(len(prompt) + limit for prompt, limit in zip(self.prompts, self.limits, strict=True))
    context = min(bucket(min(longest, self.params.spec.context), least=BLOCK_SIZE), self.params.spec.context)
    slots = min(bucket(len(self.prompts)), _MOST_ROWS)
    tokens = bucket(min(sum(map(len, self.prompts)), _MOST_TOKENS), least=2 * max(slots, BLOCK_SIZE // 2))
    return EngineSettings(
      slots=slots,
      context=context,
      policy=self.policy,
      mixed=(tokens,),
      prompts_first=True,
      prefix_first=True,
      stats=self.stats,
    )

  def _request(self, index: int) -> Request:
    prompt, sampling = self.prompts[index], self.sampling
    if isinstance(sampling, Sampling):
      sampling = dataclasses.replace(sampling, stream=(sampling.stream + index) % 2**32)
    else:
      sampling = sampling[index]
    return Request(
      id=str(index),
      prompt=tuple(prompt),
      max_new_tokens=min(self.limits[index], self.params.spec.context - len(prompt)),
      sampling=sampling,
      stop_strings=self.stops,
    )

  def _piece(self, given: EnginePiece, *, last: bool) -> Piece:
    row, ended = int(given.request_id), given.finished
    if ended is not None and ended.reason == "error":
      kind = FloatingPointError if ended.fault == "logits" else RuntimeError
      raise kind(f"prompt {row}: {ended.message}")
    reason = None if ended is None else _REASONS[ended.reason]
    return Piece(row, given.text, given.token_ids, reason, self.report() if last else None)


_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def _policy(policy: RoutingPolicy | str | None, spec: DecoderSpec) -> RoutingPolicy | None:
  """The policy, read if it is text. Raises now if it cannot serve some layer, instead of while tracing."""
  if policy is None:
    return None
  policy = as_policy(policy)
  for moe in spec.moe_specs:
    policy.check_sizes(moe.experts, moe.top_k)
  return policy


def _model(params: Params) -> Params:
  if not isinstance(params, Params):
    raise TypeError(f"params is {shown(params)}: expected a loaded model, such as lynx_jax.load('model directory')")
  return params


def _limits(max_new_tokens: int | Sequence[int], count: int) -> list[int]:
  """How many tokens each row may add."""
  each = _one_a_row("max_new_tokens", max_new_tokens, count)
  return [whole_number("max_new_tokens", limit, least=1, most=np.iinfo(np.int32).max) for limit in each]


def _sampling(sampling: Sampling | Sequence[Sampling], count: int) -> Sampling | list[Sampling]:
  each = [sampling] if isinstance(sampling, Sampling) else _one_a_row("sampling", sampling, count)
  for one in each:
    if not isinstance(one, Sampling):
      raise TypeError(
        f"sampling is {shown(one)}: expected a Sampling, such as Sampling(temperature=0.7), or one a prompt"
      )
  return sampling if isinstance(sampling, Sampling) else each


def _stops(params: Params, stop: str | Sequence[str]) -> tuple[str, ...]:
  given = (stop,) if isinstance(stop, str) else stop
  if not isinstance(given, Sequence) or any(not isinstance(text, str) or not text for text in given):
    raise ValueError(f"stop is {shown(stop)}: expected a string, or strings, none empty; () is none")
  if given and params.tokenizer is None:
    raise ValueError("stop strings need a tokenizer, and this checkpoint has none")
  return tuple(given)


def _one_a_row(name: str, values: Any, count: int) -> list[Any]:
  """`values` as a list with one entry a prompt."""
  array = isinstance(values, np.ndarray | jax.Array) and values.ndim > 0
  if not array and (isinstance(values, str) or not isinstance(values, Sequence)):
    return [values] * count
  several = list(values)
  if len(several) != count:
    raise ValueError(f"{name} has {len(several)} entries for {count} prompts: give one for all, or one each")
  return several
