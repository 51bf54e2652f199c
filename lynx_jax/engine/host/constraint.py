"""What the text of a request must be: a caller's object that says, token by token, what may come next.

The engine asks it on the host and gives the device one bit a token. A row whose next tokens depend on its last one
takes part in a step only once that token is known; the other rows do not wait for it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from pallas_kernels.checks import shown

Given = TypeVar("Given")


@runtime_checkable
class ConstraintState(Protocol):
  """One output on its way. All calls come from the engine's thread, one at a time, and should take microseconds."""

  def allowed(self) -> bytes:
    """The tokens that may come next: token t is bit t % 8 of byte t // 8; tokens past the end may not.

    The engine adds the model's own stop tokens where the output `may_end`, and takes them out elsewhere.
    """
    ...

  def may_end(self) -> bool:
    """Whether the output may end here."""
    ...

  def advance(self, token: int) -> None:
    """Notes the token that was drawn. Raises if it may not come here."""
    ...


@runtime_checkable
class Constraint(Protocol):
  """What outputs must be. Requests may share one; several samples of a prompt do."""

  def start(self) -> ConstraintState:
    """The state of an output that has not begun; it shares nothing that changes with other states."""
    ...


class MaskedDraw(NamedTuple):
  """The tokens that one draw of a step may take.

  Attributes:
    slot: that draws.
    words: one bit a token, 32 tokens a word, the lowest bit first; words are little-endian.
  """

  slot: int
  words: bytes

  def allows(self, token: int) -> bool:
    """Whether the draw may take a token of the vocabulary."""
    return bool(self.words[token // 8] >> token % 8 & 1)


class ConstraintError(ValueError):
  """A constraint has failed, or leaves nothing to draw."""


class Constrained:
  """The constraint of one sequence, and what its next draw may take.

  A sequence that loses its blocks keeps its tokens, and this with them: nothing is ever rolled back.
  """

  def __init__(
    self,
    constraint: Constraint,
    vocab: int,
    *,
    eos_ids: Iterable[int],
    stop_ids: Iterable[int],
    least: int,
    output: Sequence[int] = (),
  ):
    """After the first tokens of an output.

    Args:
      constraint: what the output must be.
      vocab: token ids of the model.
      eos_ids: the model's own stop tokens.
      stop_ids: all stop tokens of the request.
      least: tokens before which no stop token may come.
      output: the tokens that are there.

    Raises:
      ConstraintError: it fails, one of these tokens may not come, or it allows none after them.
    """
    self._least = least
    self._eos, self._stops = _words(eos_ids, vocab), _words(stop_ids, vocab)
    self._tokens = _all_words(vocab) & ~self._eos
    self._words = b""
    self._state = _told("start", constraint.start)
    for token in output:
      self._advance(token)
    if self._look(len(output)):
      where = f"after the {len(output)} tokens of output_so_far" if output else "at all"
      raise ConstraintError(f"the constraint allows no token {where}")

  def advance(self, token: int, drawn: int) -> bool:
    """Notes a token, the `drawn`-th; returns whether the output is complete: nothing may follow but its end.

    Raises:
      ConstraintError: the token may not come, the constraint fails, or it allows nothing where the output may not end.
    """
    self._advance(token)
    return self._look(drawn)

  def draw(self, slot: int) -> MaskedDraw:
    """What the next draw may take."""
    return MaskedDraw(slot, self._words)

  def _advance(self, token: int) -> None:
    _told("advance", lambda: self._state.advance(token))

  def _look(self, drawn: int) -> bool:
    """Asks what the draw after `drawn` tokens may take."""
    allowed = np.zeros_like(self._tokens)
    given = _told("allowed", self._state.allowed)
    if not isinstance(given, bytes | bytearray):
      raise ConstraintError(f"the constraint's allowed() is {shown(given)}: expected bytes, one bit a token")
    known = np.frombuffer(given[: allowed.nbytes], np.uint8)
    allowed.view(np.uint8)[: len(known)] = known
    allowed &= self._tokens
    early = drawn < self._least
    if early:
      allowed &= ~self._stops
    ends = _told("may_end", self._state.may_end)
    if not allowed.any():
      if not ends:
        raise ConstraintError(f"the constraint allows no token after {drawn}, where the output may not end")
      return True
    if ends and not early:
      allowed |= self._eos
    self._words = allowed.tobytes()
    return False


def pack_words(draws: Iterable[MaskedDraw], slots: int, vocab: int) -> np.ndarray:
  """The words of each slot, [slots, words] as int32; slots that are not named may draw every token."""
  packed = np.full((slots, -(-vocab // 32)), -1, np.int32)
  for draw in draws:
    packed[draw.slot] = np.frombuffer(draw.words, "<i4")
  return packed


def _words(ids: Iterable[int], vocab: int) -> np.ndarray:
  """One bit a token, set for `ids`."""
  found = np.zeros(-(-vocab // 32), "<u4")
  for token in ids:
    if token < vocab:
      found[token // 32] |= np.uint32(1 << token % 32)
  return found


def _all_words(vocab: int) -> np.ndarray:
  """One bit a token, set for all."""
  found = np.full(-(-vocab // 32), 2**32 - 1, "<u4")
  found[-1] >>= np.uint32(-vocab % 32)
  return found


def _told(name: str, call: Callable[[], Given]) -> Given:
  """What the caller's object answers; whatever it raises ends its own request only."""
  try:
    return call()
  except Exception as error:
    raise ConstraintError(f"the constraint's {name}() fails: {error or type(error).__name__}") from error
