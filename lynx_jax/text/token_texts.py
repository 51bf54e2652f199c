"""What single tokens stand for, as bytes and as text."""

import functools

from lynx_jax.text.tokenizer import Tokenizer


class TokenTexts:
  """Bytes and text of a tokenizer's tokens.

  A token need not be whole characters: its text then holds U+FFFD, its bytes do not.
  """

  def __init__(self, tokenizer: Tokenizer):
    self._tokenizer = tokenizer
    self._known: dict[int, bytes] = {}

  @functools.cached_property
  def longest(self) -> int:
    """Characters of text that one token can stand for, at most; runs of bytes count as if each was a character."""
    return max((len(self._tokenizer.token_bytes(token)) for token in range(self._tokenizer.vocab_size)), default=1)

  def bytes_of(self, token: int) -> bytes:
    """The bytes of a token; special tokens have those of their names, unknown ones none."""
    found = self._known.get(token)
    if found is None:
      found = self._known[token] = self._tokenizer.token_bytes(token)
    return found

  def text_of(self, token: int) -> str:
    """The text of a token."""
    return self.bytes_of(token).decode(errors="replace")
