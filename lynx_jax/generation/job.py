"""The rows of one call: what an engine is asked for each of them, and what their caller is told."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from lynx_jax.engine.buckets import bucket
from lynx_jax.engine.host.order import WINDOW
from lynx_jax.engine.host.request import Finished, Request
from lynx_jax.engine.host.request import Piece as EnginePiece
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.engine.prompts import Prompts, encode_or_fail, encode_prompts
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.generation import options
from lynx_jax.generation.order import by_shared_prefix
from lynx_jax.generation.results import FinishReason, Piece, Timing
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy
from lynx_jax.text.chat import Chats
from pallas_kernels.checks import whole_number

MOST_ROWS = 64
"""Rows that decode together, unless the caller says another number."""
_MOST_TOKENS = 512
"""Tokens of prompts that one step reads at most, or twice the rows."""


class Job:
  """One call, checked and as token ids. Its rows are the samples of the first prompt, then those of the next.

  Attributes:
    params: the model.
    rows: how many there are.
    stats: whether a report is asked for.
    failed: the errors of rows whose prompts cannot run.
  """

  def __init__(
    self,
    params: Params,
    prompts: Prompts | Chats,
    *,
    max_new_tokens: int | Sequence[int],
    policy: RoutingPolicy | str | None,
    sampling: Sampling | Sequence[Sampling],
    stop: options.Stops,
    constraint: options.Constraints = None,
    stats: bool,
    chat: bool | Mapping[str, Any],
    n: int,
    batch: int | None,
    errors: options.Errors,
    context: int | None = None,
  ):
    """Raises as `generate`; `context` is that of the engine that is to run it, if it is there already."""
    self.params = options.checked_model(params)
    self._policy = options.checked_policy(policy, params.spec)
    self._n = whole_number("n", n, least=1)
    self._batch = MOST_ROWS if batch is None else whole_number("batch", batch, least=1)
    self._returns_errors = options.checked_errors(errors)
    encoded = (encode_or_fail if self._returns_errors else encode_prompts)(params, prompts, chat, context)
    self._prompts = [() if isinstance(prompt, Exception) else tuple(prompt) for prompt in encoded]
    self._stops = options.stops_each(params, stop, len(encoded))
    self._constraints = options.constraints_each(constraint, len(encoded))
    self._limits = options.limits_each(max_new_tokens, len(encoded))
    self._sampling = options.sampling_each(sampling, len(encoded))
    self.stats = stats
    self.rows = len(encoded) * self._n
    self.failed = {
      row: error
      for index, error in enumerate(encoded)
      if isinstance(error, Exception)
      for row in range(index * self._n, (index + 1) * self._n)
    }

  def order(self) -> list[int]:
    """The rows that can run, as they should be submitted. As long as all decode together, that is as they are."""
    if self.rows - len(self.failed) <= self._batch:
      return [row for row in range(self.rows) if row not in self.failed]
    good = [index for index in range(len(self._prompts)) if index * self._n not in self.failed]
    ordered = by_shared_prefix([self._prompts[index] for index in good])
    return [good[at] * self._n + sample for at in ordered for sample in range(self._n)]

  def settings(self) -> EngineSettings:
    """An engine for the rows that can run. Sizes are rounded up, so that few programs are compiled."""
    lengths = [len(prompt) for prompt in self._prompts if prompt]
    longest = max(len(prompt) + limit for prompt, limit in zip(self._prompts, self._limits, strict=True) if prompt)
    context = self.params.spec.context
    slots = min(bucket(len(lengths) * self._n), self._batch)
    tokens = bucket(min(sum(lengths) * self._n, _MOST_TOKENS), least=2 * max(slots, BLOCK_SIZE // 2))
    return EngineSettings(
      slots=slots,
      context=min(bucket(min(longest, context), least=BLOCK_SIZE), context),
      policy=self._policy,
      mixed=(tokens,),
      prompts_first=True,
      prefix_first=True,
      stats=self.stats,
    )

  def request(self, row: int, name: str, context: int) -> Request:
    """What a row asks for in an engine of so many positions, under a name that nothing else there has."""
    index, sample = divmod(row, self._n)
    prompt = self._prompts[index]
    if isinstance(self._sampling, Sampling):
      sampling, stream = self._sampling, row
    else:
      sampling, stream = self._sampling[index], sample
    return Request(
      id=name,
      prompt=prompt,
      max_new_tokens=min(self._limits[index], context - len(prompt)),
      sampling=dataclasses.replace(sampling, stream=(sampling.stream + stream) % 2**32) if stream else sampling,
      stop_strings=self._stops[index],
      constraint=self._constraints[index],
    )

  def piece(self, row: int, given: EnginePiece) -> Piece:
    """What the caller is told of an engine's piece.

    Raises:
      FloatingPointError: the model's logits were not finite, and errors are not returned.
      RuntimeError: the tokenizer cannot decode a token, and errors are not returned.
    """
    ended = given.finished
    if ended is None:
      return Piece(row, given.text, given.token_ids, None)
    error = self._error(row, ended)
    if error is not None and not self._returns_errors:
      raise error
    reason: FinishReason = ended.reason
    timing = Timing(
      first_token_seconds=ended.first_token_seconds, seconds=ended.seconds, tokens=ended.output_tokens
    )  # fmt: skip
    return Piece(row, given.text, given.token_ids, reason, error=error, timing=timing)

  def failures(self) -> list[Piece]:
    """The only pieces of the rows that cannot run."""
    return [Piece(row, "", (), "error", error=error) for row, error in self.failed.items()]

  def _error(self, row: int, ended: Finished) -> Exception | None:
    if ended.reason != "error":
      return None
    index, sample = divmod(row, self._n)
    kind = FloatingPointError if ended.fault == "logits" else RuntimeError
    return kind(f"prompt {index}{f', sample {sample}' if self._n > 1 else ''}: {ended.message}")


def most_submitted(settings: EngineSettings) -> int:
  """Rows to give an engine at a time: those that run, and as many more as it looks through for the next one."""
  return settings.slots + WINDOW
