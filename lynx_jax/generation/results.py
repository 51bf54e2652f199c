"""What a call gives back: pieces while it runs, whole completions at its end."""

import dataclasses
from typing import Literal, TypeAlias

from lynx_jax.engine.report import RoutingReport

FinishReason: TypeAlias = Literal["stop", "length", "error", "abort"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
  """How long a row took, from the moment at which it was given to the engine. Compilation is in it.

  Attributes:
    first_token_seconds: to its first token, waiting for room included; None if it drew none.
    seconds: to its end.
    tokens: that were drawn.
  """

  first_token_seconds: float | None
  seconds: float
  tokens: int

  @property
  def tokens_per_second(self) -> float | None:
    """Of the tokens after the first; None if there are none."""
    if self.first_token_seconds is None or self.tokens < 2 or self.seconds <= self.first_token_seconds:
      return None
    return (self.tokens - 1) / (self.seconds - self.first_token_seconds)


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
  """One row's result.

  Attributes:
    text: the new text, ending before a stop string; empty where the model has no tokenizer.
    token_ids: the new tokens, a final stop token included.
    finish_reason: `stop` (a stop token or string), `length` (max_new_tokens, or the model's context), `error` (only
      with `errors="return"`), or `abort` (only by the owner of an engine that the call was given).
    stats: what the policy did over the whole batch, where `stats=True` was asked for.
    error: what went wrong, where the reason is `error`; what was drawn before is in `text` and `token_ids`.
    timing: how long it took; None if it never ran. It is not compared: results are equal that took other times.
  """

  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason
  stats: RoutingReport | None = None
  error: Exception | None = None
  timing: Timing | None = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
  """The next bit of one row.

  Attributes:
    row: index of the prompt; with `n` samples a prompt, `n` times that plus the index of the sample.
    text: new text; pieces of a row join to its completion's text.
    token_ids: the tokens decoded since the last piece; text may lag behind, inside a character or a stop string.
    finish_reason: set on the row's last piece.
    stats: on the last piece of all, where asked for.
    error: on the row's last piece, if its reason is `error`.
    timing: on the row's last piece, if it ran; not compared.
  """

  row: int
  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason | None
  stats: RoutingReport | None = None
  error: Exception | None = None
  timing: Timing | None = dataclasses.field(default=None, compare=False)


class Completions:
  """Whole rows, gathered from their pieces in whatever order these come."""

  def __init__(self) -> None:
    """Of no row yet."""
    self._texts: dict[int, list[str]] = {}
    self._tokens: dict[int, list[int]] = {}
    self._ends: dict[int, Piece] = {}
    self._stats: RoutingReport | None = None

  def add(self, piece: Piece) -> None:
    """Adds a piece."""
    if piece.text:
      self._texts.setdefault(piece.row, []).append(piece.text)
    self._tokens.setdefault(piece.row, []).extend(piece.token_ids)
    if piece.finish_reason is not None:
      self._ends[piece.row] = piece
    self._stats = self._stats or piece.stats

  def whole(self) -> list[Completion]:
    """The rows that have ended, in order."""
    return [
      Completion(
        "".join(self._texts.get(row, ())), tuple(self._tokens[row]), reason, self._stats, end.error, end.timing
      )
      for row, end in sorted(self._ends.items())
      if (reason := end.finish_reason) is not None
    ]
