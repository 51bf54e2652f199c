"""Query tiles: chunks of prompts cut into pieces of at most 16 queries, which a kernel attends for together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Int32

from pallas_kernels.checks import refusal, whole_number

MOST_QUERIES = 16
"""Queries of a tile: as many as a tensor core's tile has rows."""


class QueryTiles(NamedTuple):
  """Which rows of a step are prompt tokens, in tiles of consecutive rows of one sequence.

  A tile may be idle: its count is 0, and its other numbers mean nothing.

  Attributes:
    start: the first row of each tile.
    count: how many rows it has, 0 to 16.
    slot: the slot of its sequence, a row of the block tables.
    position: that of its first row in the sequence, in tokens. The positions of its rows are consecutive.
  """

  start: Int32[Array, "Q"]
  count: Int32[Array, "Q"]  # pyright: ignore[reportIncompatibleMethodOverride]
  slot: Int32[Array, "Q"]
  position: Int32[Array, "Q"]


def most_query_tiles(rows: int, chunks: int) -> int:
  """The most tiles that `chunks` chunks or fewer can need, of `rows` rows together: the size to compile a step for.

  Each chunk needs one tile for its first row, and one more for every 16 rows after it.

  Raises:
    ValueError: a number that is not whole, or negative.
  """
  rows = whole_number("most_query_tiles: rows", rows, least=0)
  chunks = min(whole_number("most_query_tiles: chunks", chunks, least=0), rows)
  return chunks + (rows - chunks) // MOST_QUERIES if chunks else 0


def query_tiles(chunks: Sequence[tuple[int, int, int, int]], most: int) -> QueryTiles:
  """Cuts chunks into tiles, for NumPy on the host; idle tiles follow until there are `most`.

  Args:
    chunks: (start, count, slot, position) of each: its first row, how many rows it has, the slot of its sequence, and
      the position of its first row.
    most: the tiles that the step was compiled for (`most_query_tiles`).

  Returns:
    Tiles in the order of the chunks; those of one chunk one after the other, all full but the last.

  Raises:
    ValueError: the chunks need more tiles, or have negative numbers.
  """
  cut = []
  for chunk in chunks:
    if min(chunk) < 0:
      raise refusal("query_tiles: a chunk", chunk, "(start, count, slot, position) of numbers from 0 on")
    start, count, slot, position = chunk
    cut += [(start + at, min(MOST_QUERIES, count - at), slot, position + at) for at in range(0, count, MOST_QUERIES)]
  if len(cut) > most:
    raise refusal("query_tiles: most", most, f"at least {len(cut)}, the tiles of these chunks", "take fewer rows")
  tiles: Any = np.zeros((4, most), np.int32)
  tiles[:, : len(cut)] = np.array(cut, np.int32).reshape(-1, 4).T
  return QueryTiles(*tiles)
