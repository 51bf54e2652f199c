"""Counts of the scheduler's state, for metrics."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostStats:
  """What the scheduler holds at one moment.

  Attributes:
    waiting: sequences that wait.
    waiting_tokens: of their prompts.
    running: sequences that hold a slot.
    in_flight: steps whose results have not come.
    free_blocks: that hold nothing.
    held_blocks: in at least one table.
    cached_blocks: that nobody holds and the prefix cache can find.
    waste: share of the positions of all tables that is allocated and not written.
    preemptions: since the start, recoveries included.
    recomputed: positions written by adaptive rows that preemptions let chunks compute again, as the model's own.
    prompt_tokens: of the sequences admitted since the start, each counted once.
    cached_tokens: of these, read from the prefix cache.
  """

  waiting: int
  waiting_tokens: int
  running: int
  in_flight: int
  free_blocks: int
  held_blocks: int
  cached_blocks: int
  waste: float
  preemptions: int
  recomputed: int
  prompt_tokens: int
  cached_tokens: int
