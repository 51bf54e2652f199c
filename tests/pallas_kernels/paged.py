"""Paged caches for tests: tables drawn at random, and where a row's positions lie, said in plain Python."""

import numpy as np
from hypothesis import strategies as st

BLOCK = 32


def place_by_numpy(tables, slot, position, pool_blocks):
  """(block, offset) of a position of a slot, or None if it is in no block of the pool."""
  if not (0 <= slot < len(tables) and 0 <= position < tables.shape[1] * BLOCK):
    return None
  block = int(tables[slot, position // BLOCK])
  return (block, position % BLOCK) if 0 <= block < pool_blocks else None


def seen_by_numpy(tables, slot, position, pool_blocks, first=0):
  """{position: (block, offset)} of what a row at `position` may see from `first` on; empty for an absent row."""
  if place_by_numpy(tables, slot, position, pool_blocks) is None:
    return {}
  found = {p: place_by_numpy(tables, slot, p, pool_blocks) for p in range(first, position + 1)}
  return {p: place for p, place in found.items() if place is not None}


def without_shared_places(tables, slots, positions, pool_blocks):
  """The same rows, of which those that would write a place a second time are absent."""
  places = [place_by_numpy(tables, slot, at, pool_blocks) for slot, at in zip(slots, positions, strict=True)]
  again = [place in places[:row] for row, place in enumerate(places)]
  return tables, slots, np.where(again, -1, positions).astype(np.int32)


@st.composite
def paged_rows(draw, rows, slots=3, entries=3, pool_blocks=7):
  """Tables [slots, entries], and a slot and a position for each row.

  Tables share blocks, and some entries are no block. Some rows are absent, and positions are often at a block's edge.
  """
  blocks = st.integers(0, pool_blocks - 1)
  no_block = st.sampled_from([-1, pool_blocks, 2**31 - 1])
  entry = st.one_of(blocks, blocks, blocks, no_block)
  tables = draw(st.lists(st.lists(entry, min_size=entries, max_size=entries), min_size=slots, max_size=slots))
  edges = [at + by for at in range(0, (entries + 1) * BLOCK, BLOCK) for by in (-1, 0)]
  position = st.one_of(st.integers(0, entries * BLOCK - 1), st.sampled_from(edges))
  slot = st.one_of(*[st.integers(0, slots - 1)] * 4, st.sampled_from([-1, slots]))
  return (
    np.asarray(tables, np.int32),
    np.asarray(draw(st.lists(slot, min_size=rows, max_size=rows)), np.int32),
    np.asarray(draw(st.lists(position, min_size=rows, max_size=rows)), np.int32),
  )
