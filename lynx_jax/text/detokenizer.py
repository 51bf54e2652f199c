"""The text of one row while it grows: whole characters only, cut at stop strings."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

INCOMPLETE = "\ufffd"
"""What bytes that are no whole character decode to."""


@runtime_checkable
class Decoder(Protocol):
  """The part of a tokenizer that turns tokens into text."""

  @property
  def open_ids(self) -> frozenset[int]:
    """Ids of the tokens after which the text before may still change."""
    ...

  def decode(self, ids: Sequence[int]) -> str:
    """The text of `ids`."""
    ...


@runtime_checkable
class SpecialDecoder(Decoder, Protocol):
  """A decoder that can show special tokens."""

  def showing(self, special: frozenset[int]) -> Decoder:
    """A decoder whose text shows these special tokens by their names, and leaves out all others."""
    ...


class TextRow:
  """Tokens and text of one row.

  Text is decoded in a window over the newest tokens, so the cost of a token does not grow with the row. The window
  starts at a token before the undecoded ones, because a decoder may treat the first token of a text in its own way.
  It moves on only where later tokens cannot change the text: not after an incomplete character, and not inside a run
  of byte tokens, which a decoder reads as one piece. `tokenizers.decoders.DecodeStream` moves on inside such runs,
  and then raises or differs from `decode` (measured with random ids of a SentencePiece tokenizer: in half of the rows).

  Attributes:
    token_ids: every token decoded so far.
    text: the text so far, before a stop string.
    finish_reason: None while the row runs.
  """

  def __init__(self, tokenizer: Decoder | None, stops: Sequence[str] = ()):
    self.token_ids: list[int] = []
    self.text = ""
    self.finish_reason: Literal["stop", "length"] | None = None
    self._tokenizer = tokenizer
    self._stops = tuple(stops)
    self._taken = 0
    # The window is token_ids[_start:]. It begins with tokens that are settled, whose text is `_prefix`.
    self._start = 0
    self._settled_ids = 0
    self._prefix = ""
    # Characters of `text` up to the settled tokens, and up to where later tokens can change it.
    self._settled = 0
    self._certain = 0

  def extend(self, token_ids: Sequence[int], finish_reason: Literal["stop", "length"] | None) -> None:
    """Adds tokens, and ends the row if it ended or its text now holds a stop string."""
    self.token_ids.extend(token_ids)
    self.finish_reason = finish_reason
    if self._tokenizer is None:
      return
    searched = self._settled
    self._decode(self._tokenizer)
    if not self._stops:
      return
    starts = ((stop, max(0, searched - len(stop) + 1)) for stop in self._stops)
    found = [at for stop, start in starts if (at := self.text.find(stop, start)) >= 0]
    if found:
      self.text, self.finish_reason = self.text[: min(found)], "stop"

  def take(self) -> str:
    """Text not taken before; holds back what later tokens may still change."""
    end = len(self.text)
    if self.finish_reason is None:
      end = self._certain
      if self._stops:
        end -= max(_overlap(self.text, end, stop) for stop in self._stops)
    piece = self.text[self._taken : end]
    self._taken = max(self._taken, end)
    return piece

  def _decode(self, tokenizer: Decoder) -> None:
    """Brings `text` up to date, and moves the window on where it can."""
    window = tokenizer.decode(self.token_ids[self._start :])
    if not window.startswith(self._prefix):
      # This decoder changes text further back than the window reaches: decode everything, settle nothing.
      self.text = self.text[: self._certain] + tokenizer.decode(self.token_ids)[self._certain :]
      return
    new = window[len(self._prefix) :]
    self.text = self.text[: self._settled] + new
    if self.token_ids[-1:] and self.token_ids[-1] in tokenizer.open_ids:
      return
    whole = new.rstrip(INCOMPLETE)
    self._certain = max(self._certain, self._settled + len(whole))
    if not new or len(whole) < len(new) or self.finish_reason is not None:
      return
    self._settled = len(self.text)
    self._start, self._settled_ids = self._settled_ids, len(self.token_ids)
    self._prefix = tokenizer.decode(self.token_ids[self._start :])


def _overlap(text: str, end: int, stop: str) -> int:
  """Characters before `end` in `text` with which `stop` begins."""
  return max((size for size in range(1, len(stop)) if text.endswith(stop[:size], 0, end)), default=0)
