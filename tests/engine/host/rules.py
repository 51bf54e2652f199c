"""Constraints for tests, by a hash of the output so far: what may come, and whether the output may end."""

import dataclasses
import zlib


def words(tokens: set[int], vocab: int) -> bytes:
  """One bit a token."""
  bits = sum(1 << token for token in tokens)
  return bits.to_bytes(-(-vocab // 8), "little")


@dataclasses.dataclass(frozen=True)
class HashRule:
  """About half of the tokens may come anywhere; now and then none may, and a third of all places may be the last.

  Attributes:
    seed: of the hash.
    vocab: tokens that there are.
    fails: length of the output at which it raises; -1 is never.
  """

  seed: int
  vocab: int
  fails: int = -1

  def tokens(self, output: list[int]) -> set[int]:
    """What may come after `output`."""
    hashed = self._hash(output)
    if hashed % 13 == 0:
      return set()
    return {token for token in range(self.vocab) if hashed * (2 * token + 1) >> 11 & 1}

  def may_end(self, output: list[int]) -> bool:
    """Whether `output` may be whole."""
    return self._hash(output) % 3 == 0

  def _hash(self, output: list[int]) -> int:
    return zlib.crc32(bytes((1, *output)), self.seed) >> 4

  def start(self) -> "HashState":
    return HashState(self)


class HashState:
  """The output so far."""

  def __init__(self, rule: HashRule):
    self._rule, self._output = rule, []

  def allowed(self) -> bytes:
    if len(self._output) == self._rule.fails:
      raise RuntimeError("too complex")
    return words(self._rule.tokens(self._output), self._rule.vocab)

  def may_end(self) -> bool:
    return self._rule.may_end(self._output)

  def advance(self, token: int) -> None:
    if token not in self._rule.tokens(self._output):
      raise ValueError(f"{token} may not come after {self._output}")
    self._output.append(token)
