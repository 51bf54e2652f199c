"""The sequences that run: the one place where slots and blocks are given and taken."""

import bisect
import heapq
from collections.abc import Iterator

from lynx_jax.engine.host.block_pool import BlockPool
from lynx_jax.engine.host.prefix_cache import Hit, PrefixCache
from lynx_jax.engine.host.sequence import Sequence, State


class Running:
  """Sequences with a slot and a table of blocks, by rank."""

  def __init__(self, slots: int, pool: BlockPool, cache: PrefixCache, block_size: int):
    self._pool = pool
    self._cache = cache
    self._block_size = block_size
    self._free = list(range(slots))
    self._sequences: list[Sequence] = []

  def __len__(self) -> int:
    return len(self._sequences)

  def __iter__(self) -> Iterator[Sequence]:
    """The oldest first, as they are now: changes do not disturb the loop."""
    return iter(tuple(self._sequences))

  @property
  def has_slot(self) -> bool:
    """Whether another sequence could have a slot."""
    return bool(self._free)

  @property
  def youngest(self) -> Sequence:
    """The last by rank."""
    return self._sequences[-1]

  def enter(self, sequence: Sequence, hit: Hit) -> None:
    """Gives a sequence a slot, the blocks that the cache has, and blocks for its other known tokens."""
    self._pool.hold(hit.blocks)
    new = self._pool.take(-(-len(sequence.tokens) // self._block_size) - len(hit.blocks))
    sequence.table = (*hit.blocks, *new)
    sequence.keys = list(hit.keys)
    sequence.done = len(hit.blocks) * self._block_size
    sequence.adaptive_from = hit.clean * self._block_size if hit.clean < len(hit.blocks) else None
    # The lowest slots first: the rows of a step lie close together.
    sequence.slot = heapq.heappop(self._free)
    sequence.state = State.PREFILLING
    bisect.insort(self._sequences, sequence, key=_rank)
    self._cache.promise(sequence)

  def grow(self, sequence: Sequence) -> bool:
    """Makes room in a table for the next position; False if no block is available."""
    if sequence.done == len(sequence.table) * self._block_size:
      if not self._pool.available:
        return False
      sequence.table += tuple(self._pool.take(1))
    return True

  def leave(self, sequence: Sequence, state: State) -> None:
    """Takes slot and blocks from a sequence, whose new state is `state`. What it published stays in the cache."""
    self._cache.break_promises(sequence)
    self._pool.drop(sequence.table)
    heapq.heappush(self._free, sequence.slot)
    del self._sequences[bisect.bisect_left(self._sequences, sequence.rank, key=_rank)]
    sequence.table, sequence.slot, sequence.done = (), -1, 0
    sequence.keys.clear()
    sequence.adaptive_from, sequence.stale = None, False
    sequence.state = state

  def waste(self) -> float:
    """The share of the positions of all tables that is not written."""
    positions = sum(len(sequence.table) for sequence in self._sequences) * self._block_size
    return 1 - sum(sequence.done for sequence in self._sequences) / positions if positions else 0.0


def _rank(sequence: Sequence) -> tuple[int, int]:
  return sequence.rank
