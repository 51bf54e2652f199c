"""The text of one output while it grows, token by token: whole characters only."""

import codecs
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

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
class ByteDecoder(Decoder, Protocol):
  """A decoder that may know the bytes of each token, whatever stands beside it."""

  @property
  def text_bytes(self) -> Mapping[int, bytes] | None:
    """The bytes that each token adds to a text; None if they depend on other tokens."""
    ...


@runtime_checkable
class SpecialDecoder(Decoder, Protocol):
  """A decoder that can show special tokens."""

  def showing(self, special: frozenset[int]) -> Decoder:
    """A decoder whose text shows these special tokens by their names, and leaves out all others."""
    ...


@runtime_checkable
class TextStream(Protocol):
  """The text of one output."""

  def feed(self, token: int, last: bool) -> str:
    """Adds the next token; returns the text that is new and that no later token can change.

    `last` says that no token follows: then all text comes out, what is no whole character as U+FFFD.
    """
    ...


def text_stream(decoder: Decoder) -> TextStream:
  """The stream of an output that has not begun."""
  known = decoder.text_bytes if isinstance(decoder, ByteDecoder) else None
  return WindowStream(decoder) if known is None else ByteStream(known)


class ByteStream:
  """Text of tokens that stand for bytes each, such as those of byte-level BPE: a token costs a look into a table."""

  def __init__(self, text_bytes: Mapping[int, bytes]):
    self._bytes = text_bytes
    self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

  def feed(self, token: int, last: bool) -> str:
    """As `TextStream` has it."""
    return self._decode(self._bytes[token], last)


class WindowStream:
  """Text of any tokens, decoded in a window over the newest, so that the cost of a token does not grow.

  The window starts at a token before the undecoded ones, because a decoder may treat the first token of a text in its
  own way. It moves on only where later tokens cannot change the text: not after an incomplete character, and not inside
  a run of byte tokens, which a decoder reads as one piece. `tokenizers.decoders.DecodeStream` moves on inside such
  runs, and then raises or differs from `decode` (measured with random ids of a SentencePiece tokenizer: in half of the
  outputs).
  """

  def __init__(self, decoder: Decoder):
    self._decoder = decoder
    self._ids: list[int] = []
    # The window is _ids[_start:]. It begins with tokens that are settled, whose text is `_prefix`.
    self._start = 0
    self._settled = 0
    self._prefix = ""
    # Characters that were given, of the window after the settled ones and of all text.
    self._given = 0
    self._all_given = 0

  def feed(self, token: int, last: bool) -> str:
    """As `TextStream` has it."""
    self._ids.append(token)
    window = self._decoder.decode(self._ids[self._start :])
    if not window.startswith(self._prefix):
      # This decoder changes text further back than the window reaches: decode everything, settle nothing.
      return self._decoder.decode(self._ids)[self._all_given :] if last else ""
    new = window[len(self._prefix) :]
    if last:
      return new[self._given :]
    if token in self._decoder.open_ids:
      return ""
    whole = new.rstrip(INCOMPLETE)
    piece = whole[self._given :]
    self._all_given += len(piece)
    if not new or len(whole) < len(new):
      self._given = max(self._given, len(whole))
      return piece
    self._start, self._settled = self._settled, len(self._ids)
    self._prefix, self._given = self._decoder.decode(self._ids[self._start :]), 0
    return piece
