"""The sizes that one compiled step program is made for."""

import dataclasses

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.checks import field_of, require, whole_fields
from pallas_kernels.chunk_attention import most_query_tiles

STOP_IDS = 8
"""Stop tokens that the device checks by itself, for each row; the host finds the others a step later."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
  """The sizes of a step program.

  A plan runs in any program that is at least as large; the rest of the program's rows are absent.

  Attributes:
    rows: tokens that pass through the layers (T): those of decoding sequences, and of chunks of prompts behind them.
    chunks: whether there may be chunks; without them every row decodes.
    slots: sequences that the cache's tables have room for (S).
    table: blocks of one sequence at most (M).
  """

  rows: int
  chunks: bool
  slots: int
  table: int

  def __post_init__(self) -> None:
    whole_fields(self, "rows", "slots", "table", least=1)
    fits = self.chunks or self.rows <= self.slots
    require(fits, field_of(self, "rows"), self.rows, f"at most slots {self.slots}", "each decoding row has a slot")

  @property
  def draws(self) -> int:
    """Sequences that take part at most, each of which may draw a token: decoding rows are among the first so many."""
    return min(self.rows, self.slots)

  @property
  def tiles(self) -> int:
    """Tiles of up to 16 query rows that cover the chunks, however they are cut."""
    return most_query_tiles(self.rows, self.draws) if self.chunks else 0

  @property
  def positions(self) -> int:
    """Positions of one sequence at most."""
    return self.table * BLOCK

  @property
  def name(self) -> str:
    """A short name, such as `decode[16]` or `mixed[512]`."""
    return f"{'mixed' if self.chunks else 'decode'}[{self.rows}]"
