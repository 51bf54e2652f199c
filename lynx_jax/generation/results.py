"""What a call gives back: pieces while it runs, whole completions at its end."""

import dataclasses
from typing import Literal, TypeAlias

from lynx_jax.engine.report import RoutingReport

FinishReason: TypeAlias = Literal["stop", "length", "error", "abort"]


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
  """

  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason
  stats: RoutingReport | None = None
  error: Exception | None = None


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
  """

  row: int
  text: str
  token_ids: tuple[int, ...]
  finish_reason: FinishReason | None
  stats: RoutingReport | None = None
  error: Exception | None = None


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
      Completion("".join(self._texts.get(row, ())), tuple(self._tokens[row]), reason, self._stats, end.error)
      for row, end in sorted(self._ends.items())
      if (reason := end.finish_reason) is not None
    ]
