"""The text of one request while it grows, cut at its stop strings."""

import collections
import functools
from collections.abc import Callable, Sequence, Set

from lynx_jax.text.detokenizer import Decoder, SpecialDecoder, text_stream
from pallas_kernels.checks import require


class StopStrings:
  """An automaton that finds the first of several strings in text that comes in pieces (Aho and Corasick, 1975).

  Its state is the longest end of the text so far that is the beginning of a stop string: what must be held back. What
  it finds does not depend on how the text was cut into pieces: of the strings that are complete first, the longest.
  """

  def __init__(self, strings: Sequence[str]):
    self._next, self._depth, self._found = _automaton(tuple(strings))
    self._state = 0
    self._held = ""

  def feed(self, text: str) -> tuple[str, bool]:
    """Adds text; returns the text that no stop string can take back, and whether one is complete. Then feed no more."""
    state = self._state
    for index, character in enumerate(text):
      state = self._next(state, character)
      if self._found[state]:
        end = len(self._held) + index + 1
        return (self._held + text)[: end - self._found[state]], True
    self._state = state
    whole = self._held + text
    free = len(whole) - self._depth[state]
    self._held = whole[free:]
    return whole[:free], False

  def rest(self) -> str:
    """What is held back, once no more text comes."""
    held, self._held = self._held, ""
    return held


class OutputText:
  """Text of a request, token by token: whole characters only, nothing of a stop string."""

  def __init__(self, decoder: Decoder, stops: Sequence[str] = (), special: Set[int] = frozenset()):
    """At the beginning of an output.

    Args:
      decoder: of tokens.
      stops: strings that end the text.
      special: special tokens that the text shows; it leaves out all others.

    Raises:
      ValueError: the decoder cannot show special tokens.
    """
    if special:
      able = isinstance(decoder, SpecialDecoder)
      require(able, "text_ids", sorted(special), "none, as this decoder of tokens cannot show special ones")
      assert isinstance(decoder, SpecialDecoder)
      decoder = decoder.showing(frozenset(special))
    self._stream = text_stream(decoder)
    self._stops = StopStrings(stops) if stops else None

  def skip(self, tokens: Sequence[int]) -> None:
    """Adds tokens whose text somebody has already. Raises ValueError if a stop string is complete in them."""
    for index, token in enumerate(tokens):
      _, ended = self.feed(token, False)
      require(not ended, "output_so_far", f"complete after {index + 1} tokens", "an output that no stop string ends")

  def feed(self, token: int, last: bool) -> tuple[str, bool]:
    """Adds the next token; returns the new text, and whether a stop string is complete.

    Text is searched once later tokens cannot change it. So the token that returns True is the last one of the output,
    and it must not be fed another. `last` says that no token follows: then all text comes out.
    """
    text = self._stream.feed(token, last)
    if self._stops is None:
      return text, False
    text, stopped = self._stops.feed(text)
    return (text + self._stops.rest() if last and not stopped else text), stopped


@functools.lru_cache(maxsize=256)
def _automaton(strings: tuple[str, ...]) -> tuple[Callable[[int, str], int], list[int], list[int]]:
  """The step function, and for each state the length of text that it stands for and of the stop string that ends it."""
  children: list[dict[str, int]] = [{}]
  depth, found = [0], [0]
  for string in strings:
    state = 0
    for character in string:
      if character not in children[state]:
        children[state][character] = len(children)
        children.append({})
        depth.append(depth[state] + 1)
        found.append(0)
      state = children[state][character]
    found[state] = len(string)
  shorter = [0] * len(children)

  def step(state: int, character: str) -> int:
    while (after := children[state].get(character)) is None and state:
      state = shorter[state]
    return after or 0

  queue = collections.deque(children[0].values())
  while queue:
    state = queue.popleft()
    for character, child in children[state].items():
      shorter[child] = step(shorter[state], character)
      # A stop string may end inside a longer one that is not complete.
      found[child] = found[child] or found[shorter[child]]
      queue.append(child)
  return step, depth, found
