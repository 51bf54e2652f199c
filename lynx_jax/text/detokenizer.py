"""The text of one row while it grows: whole characters only, cut at stop strings."""

from collections.abc import Sequence
from typing import Literal

from lynx_jax.text.tokenizer import Tokenizer

_INCOMPLETE = "\ufffd"


class TextRow:
  """Tokens and text of one row.

  Attributes:
    token_ids: every token decoded so far.
    text: the text so far, before a stop string.
    finish_reason: None while the row runs.
  """

  def __init__(self, tokenizer: Tokenizer | None, stops: Sequence[str] = ()):
    self.token_ids: list[int] = []
    self.text = ""
    self.finish_reason: Literal["stop", "length"] | None = None
    self._tokenizer = tokenizer
    self._stops = tuple(stops)
    self._taken = 0

  def extend(self, token_ids: Sequence[int], finish_reason: Literal["stop", "length"] | None) -> None:
    """Adds tokens, and ends the row if it ended or its text now holds a stop string."""
    self.token_ids.extend(token_ids)
    self.finish_reason = finish_reason
    if self._tokenizer is None:
      return
    self.text = self._tokenizer.decode(self.token_ids)
    found = [at for stop in self._stops if (at := self.text.find(stop)) >= 0]
    if found:
      self.text, self.finish_reason = self.text[: min(found)], "stop"

  def take(self) -> str:
    """Text not taken before; holds back what later tokens may still change."""
    end = len(self.text)
    if self.finish_reason is None:
      end = len(self.text.rstrip(_INCOMPLETE))
      end -= max((_overlap(self.text[:end], stop) for stop in self._stops), default=0)
    piece = self.text[self._taken : end]
    self._taken = max(self._taken, end)
    return piece


def _overlap(text: str, stop: str) -> int:
  """Characters at the end of `text` with which `stop` begins."""
  return max((size for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
