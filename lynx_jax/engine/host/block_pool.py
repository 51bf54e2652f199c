"""Blocks of the paged cache: who holds them, which ones can be found again by their contents."""

import collections
from collections.abc import Iterable


class BlockPool:
  """Counts holders of blocks, and remembers the contents of blocks that nobody holds until their room is needed.

  A block is held (by one table or more), cached (by none, but it has a key) or empty. Blocks are freed at once, with
  steps in flight that still use them: whatever takes them next is dispatched later, and the device works in order.
  """

  def __init__(self, blocks: int):
    self.blocks = blocks
    self._holders = [0] * blocks
    self._keys: list[bytes | None] = [None] * blocks
    self._index: dict[bytes, int] = {}
    self._empty = list(reversed(range(blocks)))
    # The first is evicted first.
    self._cached: collections.OrderedDict[int, None] = collections.OrderedDict()

  @property
  def available(self) -> int:
    """Blocks that can be taken."""
    return len(self._empty) + len(self._cached)

  @property
  def cached(self) -> int:
    """Blocks that nobody holds and that can be found by key."""
    return len(self._cached)

  @property
  def held(self) -> int:
    """Blocks in at least one table."""
    return self.blocks - self.available

  def find(self, key: bytes) -> int | None:
    """The block of these contents, None if there is none."""
    return self._index.get(key)

  def idle(self, blocks: Iterable[int]) -> int:
    """How many of `blocks` nobody holds."""
    return sum(not self._holders[block] for block in blocks)

  def take(self, count: int) -> list[int]:
    """Gives the caller `count` blocks of its own; evicts the cached ones that were used least recently.

    There must be as many `available`.
    """
    taken = []
    for _ in range(count):
      if self._empty:
        block = self._empty.pop()
      else:
        block, _ = self._cached.popitem(last=False)
        self._forget(block)
      self._holders[block] = 1
      taken.append(block)
    return taken

  def hold(self, blocks: Iterable[int]) -> None:
    """Adds a holder to blocks that were found by key."""
    for block in blocks:
      if not self._holders[block]:
        del self._cached[block]
      self._holders[block] += 1

  def drop(self, table: Iterable[int]) -> None:
    """Takes a holder from the blocks of a table, given in order of positions.

    The blocks at its end are evicted before those at its start, which more prompts share.
    """
    for block in reversed(tuple(table)):
      self._holders[block] -= 1
      if self._holders[block]:
        continue
      if self._keys[block] is None:
        self._empty.append(block)
      else:
        self._cached[block] = None

  def publish(self, block: int, key: bytes) -> None:
    """Lets a full block be found; from now on it is never written. Of two with the same contents the first is found."""
    if key not in self._index:
      self._index[key] = block
      self._keys[block] = key

  def withdraw(self, blocks: Iterable[int]) -> None:
    """Lets held blocks be found no more."""
    for block in blocks:
      self._forget(block)

  def withdraw_all(self) -> None:
    """Lets no block be found any more."""
    self._index.clear()
    self._keys = [None] * self.blocks
    self._empty.extend(self._cached)
    self._cached.clear()

  def _forget(self, block: int) -> None:
    key, self._keys[block] = self._keys[block], None
    if key is not None:
      del self._index[key]
