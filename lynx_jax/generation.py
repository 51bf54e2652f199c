"""Text in, text out: `generate` waits for whole completions, `stream` hands out pieces as they are decoded."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.engine.buckets import bucket
from lynx_jax.engine.memory import out_of_memory_explained
from lynx_jax.engine.programs import compiled_decode_loop, compiled_prefill
from lynx_jax.engine.prompts import Prompts, encode_prompts
from lynx_jax.engine.report import RoutingReport, report
from lynx_jax.engine.sampling import Sampling, samplers
from lynx_jax.engine.state import DecodeState, Finish, Requests, RoutingTotals
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import RoutingPolicy, as_policy
from lynx_jax.text.chat import Chats
from lynx_jax.text.detokenizer import TextRow
from pallas_kernels.checks import shown, whole_number

FinishReason = Literal["stop", "length"]


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
  # A row must end at its stop string before the next step, or it would go on voting for experts.
  steps = 1 if batch.stops else np.iinfo(np.int32).max
  for _ in batch.run(steps):
    pass
  totals = batch.report()
  return [Completion(row.text, tuple(row.token_ids), row.finish_reason or "length", totals) for row in batch.rows]


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
  """One batch from prompts to finished rows."""

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
    self.rows = [TextRow(params.tokenizer, self.stops) for _ in self.prompts]
    self.totals: RoutingTotals | None = None

  def run(self, steps: int) -> Iterator[None]:
    """Decodes `steps` steps at a time, updating `rows` after each."""
    with out_of_memory_explained(self.params, *self._size()):
      state = self._start()
      while True:
        state = self._collect(state)
        self.totals = state.totals
        yield
        if all(row.finish_reason for row in self.rows):
          return
        state = compiled_decode_loop(self.params, state, policy=self.policy, max_steps=jnp.int32(steps))

  def pieces(self) -> Iterator[Piece]:
    """One piece a row and step, while the row runs."""
    seen, going = [0] * len(self.rows), set(range(len(self.rows)))
    for _ in self.run(1):
      for index in sorted(going):
        row = self.rows[index]
        if row.finish_reason is not None:
          going.remove(index)
        new, seen[index] = tuple(row.token_ids[seen[index] :]), len(row.token_ids)
        yield Piece(index, row.take(), new, row.finish_reason, None if going else self.report())

  def report(self) -> RoutingReport | None:
    """The routing statistics of the whole decode."""
    return None if self.totals is None else report(self.totals, self.params.decoder)

  def _size(self) -> tuple[int, int]:
    """Rows of the batch and positions of its cache, each rounded up so that few programs are compiled."""
    need = max(len(prompt) + limit for prompt, limit in zip(self.prompts, self.limits, strict=True))
    positions = bucket(min(need, self.params.spec.context), least=16)
    return bucket(len(self.prompts), step=64), max(self._length(), positions)

  def _length(self) -> int:
    """Positions of the prompts, rounded up."""
    return bucket(max(map(len, self.prompts)), least=16)

  def _start(self) -> DecodeState:
    """Reads the prompts."""
    (rows, capacity), length = self._size(), self._length()
    tokens = np.zeros((rows, length), np.int32)
    lengths, limits = np.zeros((rows,), np.int32), np.ones((rows,), np.int32)
    for index, prompt in enumerate(self.prompts):
      tokens[index, : len(prompt)] = prompt
      lengths[index], limits[index] = len(prompt), self.limits[index]
    stop_ids = np.array(self.params.spec.stop_ids or (-1,), np.int32)
    requests = Requests(
      samplers=samplers(self.sampling, rows),
      max_new_tokens=jnp.asarray(limits),
      stop_ids=jnp.asarray(np.broadcast_to(stop_ids, (rows, stop_ids.size))),
    )
    return compiled_prefill(
      self.params, jnp.asarray(tokens), jnp.asarray(lengths), capacity, requests, collect_totals=self.stats
    )

  def _collect(self, state: DecodeState) -> DecodeState:
    """Takes over what was decoded; ends rows whose text reached a stop string."""
    newest, generated, finish = jax.device_get((state.token, state.generated, state.finish))
    # After one step the newest tokens are all that is new; the whole output is as wide as the context.
    known = np.array([len(row.token_ids) for row in self.rows])
    output = jax.device_get(state.output) if (generated[: known.size] > known + 1).any() else None
    stopped = finish.copy()
    for index, row in enumerate(self.rows):
      if row.finish_reason is not None:
        continue
      if finish[index] == Finish.NOT_FINITE:
        raise FloatingPointError(
          f"prompt {index}: the model's logits are not finite at new token {generated[index] - 1}: "
          f"the weights are damaged, or overflow in their dtype"
        )
      tokens = newest[index : index + 1] if output is None else output[index, known[index] : generated[index]]
      row.extend(tokens.tolist(), _REASONS.get(finish[index]))
      if row.finish_reason == "stop":
        stopped[index] = Finish.STOP
    return state if (stopped == finish).all() else dataclasses.replace(state, finish=jnp.asarray(stopped))


_REASONS: dict[int, FinishReason] = {Finish.STOP: "stop", Finish.LENGTH: "length"}


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
