"""When a waiting sequence may have blocks: the room that is kept for those that run."""

import dataclasses
from collections.abc import Iterable

from lynx_jax.engine.host.sequence import Sequence
from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from pallas_kernels.checks import whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
  """How far ahead admission looks.

  A sequence enters with all blocks of its known tokens, so that it is not evicted between its chunks, and only if
  room is left for the next tokens of everyone who runs, itself included.

  Attributes:
    lookahead: tokens of each running sequence to keep room for. More of them preempt less, and run fewer rows. None is
      all that each may draw: then nothing is ever preempted.
  """

  lookahead: int | None = BLOCK_SIZE

  def __post_init__(self) -> None:
    if self.lookahead is not None:
      whole_fields(self, "lookahead", least=0, remedy="None keeps room for all tokens")

  def growth(self, sequence: Sequence, block_size: int) -> int:
    """Blocks that a sequence will need for its known and its next tokens, besides those of its table."""
    positions = sequence.longest
    if self.lookahead is not None:
      positions = min(positions, len(sequence.tokens) + sequence.pending + self.lookahead)
    return max(0, -(-positions // block_size) - len(sequence.table))

  def fits(self, sequence: Sequence, shared: int, available: int, running: Iterable[Sequence], block_size: int) -> bool:
    """Whether a waiting sequence may enter; `shared` of its blocks are held by others, `available` blocks are not."""
    needed = self.growth(sequence, block_size) - shared
    return needed <= available and needed + sum(self.growth(one, block_size) for one in running) <= available
