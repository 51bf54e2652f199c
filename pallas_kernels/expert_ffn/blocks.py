"""How the GPU kernels cut their work, by shape."""

import dataclasses

from jax.experimental import pallas as pl

# A tile of 16 rows is the least that tensor cores take; decode seldom sends an expert more.
DECODE_TILE = 16
_PREFILL_TILE = 64
# An H100 has 132 multiprocessors, an A100 108.
_PROGRAMS = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
  """One kernel's cut.

  Attributes:
    columns: of the result, a program.
    inner: steps along the axis that is summed.
    warps: of a program.
    stages: loads in flight.
  """

  columns: int
  inner: int
  warps: int
  stages: int


def tile_rows_for(rows: int, top_k: int, experts: int) -> int:
  """Rows a tile: as few as tensor cores take, unless experts have many."""
  return DECODE_TILE if rows * top_k < 32 * experts or rows <= 64 else _PREFILL_TILE


# Measured choices go here, by (rows a tile, columns, inner, experts a row runs, parts); none has been measured yet.
_TABLE: dict[tuple[int, int, int, int, int], Blocks] = {}


def choose_blocks(tile: int, columns: int, inner: int, top_k: int, parts: int) -> Blocks:
  """Blocks for `parts` results [tile, columns] summed over `inner`, when as few as `top_k` experts may be live."""
  found = _TABLE.get((tile, columns, inner, top_k, parts))
  if found is not None:
    return found
  if tile > DECODE_TILE:
    return Blocks(columns=64, inner=64, warps=4, stages=3)
  block = 64
  while block > 16 and top_k * columns < _PROGRAMS * block:
    block //= 2
  # At most 80 KB in flight, so that two programs fit an A100's multiprocessor.
  return Blocks(columns=block, inner=dividing_step(inner, 128 if parts * block <= 64 else 64), warps=4, stages=4)


def dividing_step(inner: int, most: int) -> int:
  """A power of two of at most `most`, dividing `inner` where it can: masks cost the pipelining of loads."""
  dividing = inner & -inner
  return max(16, min(most, dividing if dividing >= 32 else pl.next_power_of_2(inner)))
