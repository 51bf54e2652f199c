"""Who is next: the queue of waiting sequences, and the orders in which it is looked through."""

import bisect
import dataclasses
from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

from lynx_jax.engine.host.sequence import Sequence

PLACES = 64
"""How many places of the queue one level of priority is worth.

So priority ages by itself: a request is overtaken by a limited number of later ones, however urgent they are.
"""
WINDOW = 64
"""How many sequences at the head of the queue are looked at in a step."""
MOST_OVERTAKEN = 64
"""Sequences that may be admitted from behind a waiting one; after that, none is before it has been."""


def rank(number: int, priority: int) -> tuple[int, int]:
  """The place of the request with this number; smaller is sooner. It never changes, and no two are the same."""
  return number - PLACES * priority, number


@runtime_checkable
class Order(Protocol):
  """In what order waiting sequences are tried."""

  def arrange(self, head: list[Sequence], cached: Callable[[Sequence], int]) -> list[Sequence]:
    """The sequences at the head of the queue, given by rank, in the order in which to admit them.

    `cached` counts the blocks of a sequence that are in the prefix cache.
    """
    ...


@dataclasses.dataclass(frozen=True, slots=True)
class FirstCome:
  """By rank: first come, first served, and by priority."""

  def arrange(self, head: list[Sequence], cached: Callable[[Sequence], int]) -> list[Sequence]:
    """As they are."""
    return head


@dataclasses.dataclass(frozen=True, slots=True)
class PrefixFirst:
  """Those with the longest cached prefix first, so that it is read before it is evicted; then by rank."""

  def arrange(self, head: list[Sequence], cached: Callable[[Sequence], int]) -> list[Sequence]:
    """Sorted by cached blocks; the sort keeps the rank of equals."""
    return sorted(head, key=lambda sequence: -cached(sequence))


class WaitingQueue:
  """Waiting sequences by rank. They hold neither slots nor blocks.

  Attributes:
    tokens: of the prompts that wait.
  """

  def __init__(self, order: Order):
    self._order = order
    self._sequences: list[Sequence] = []
    self.tokens = 0

  def __len__(self) -> int:
    return len(self._sequences)

  def __iter__(self) -> Iterator[Sequence]:
    return iter(self._sequences)

  def add(self, sequence: Sequence) -> None:
    """Puts a sequence at the place of its rank."""
    bisect.insort(self._sequences, sequence, key=_rank)
    self.tokens += len(sequence.request.prompt)

  def remove(self, sequence: Sequence) -> None:
    """Takes a sequence out."""
    del self._sequences[bisect.bisect_left(self._sequences, sequence.rank, key=_rank)]
    self.tokens -= len(sequence.request.prompt)

  def may_enter(self, paused: bool) -> list[Sequence]:
    """Those at the head that may run again or, unless `paused`, for the first time."""
    if not paused:
      return self._sequences[:WINDOW]
    return [sequence for sequence in self._sequences if sequence.preemptions][:WINDOW]

  def wanted(self, paused: bool) -> int:
    """Tokens of the prompts of those that may enter."""
    return sum(len(one.request.prompt) for one in self.may_enter(True)) if paused else self.tokens

  def candidates(self, cached: Callable[[Sequence], int], paused: bool = False) -> list[Sequence]:
    """Those to try in this step, in order: one that was overtaken too often, alone, or else the head as arranged."""
    head = self.may_enter(paused)
    overdue = next((sequence for sequence in head if sequence.overtaken >= MOST_OVERTAKEN), None)
    return self._order.arrange(head, cached) if overdue is None else [overdue]

  def admit(self, sequence: Sequence) -> None:
    """Takes out a candidate, and notes whom it overtook."""
    self.remove(sequence)
    for other in self._sequences[:WINDOW]:
      if other.rank > sequence.rank:
        break
      other.overtaken += 1


def _rank(sequence: Sequence) -> tuple[int, int]:
  return sequence.rank
