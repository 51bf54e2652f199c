"""Which rows each expert runs, cut into tiles of a fixed number of rows."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32


class Tiles(NamedTuple):
  """The work of one layer: only the first `in_use` tiles exist; N is the most that any routing can need.

  Attributes:
    in_use: how many tiles hold work.
    expert: the expert of each tile.
    slot: assignments of each tile, as row * K + place; T * K where the tile has room left.
  """

  in_use: Int32[Array, ""]
  expert: Int32[Array, "N"]
  slot: Int32[Array, "N R"]


def most_tiles(assignments: int, rows: int, experts: int, tile: int) -> int:
  """Tiles that suffice for any routing: each expert adds at most one that is not full, and none has over T rows."""
  return min(assignments, experts * -(-rows // tile), assignments // tile + experts)


def tile_rows(ids_TK: Int32[Array, "T K"], valid_T: Bool[Array, "T"], experts: int, tile: int) -> Tiles:
  """Groups the valid rows' assignments by expert, in row order."""
  rows, top_k = ids_TK.shape
  none = rows * top_k
  # Invalid rows go to an expert past the last, and so to no tile.
  expert_of = jnp.where(valid_T[:, None], ids_TK, experts).reshape(-1)
  order = jnp.argsort(expert_of, stable=True).astype(jnp.int32)
  load = jnp.zeros((experts,), jnp.int32).at[expert_of].add(1, mode="drop")
  first_slot = jnp.cumsum(load) - load
  tiles = -(-load // tile)
  last_tile = jnp.cumsum(tiles)
  index = jnp.arange(most_tiles(none, rows, experts, tile), dtype=jnp.int32)
  expert = jnp.minimum(jnp.searchsorted(last_tile, index, side="right"), experts - 1).astype(jnp.int32)
  place = (index - (last_tile - tiles)[expert])[:, None] * tile + jnp.arange(tile, dtype=jnp.int32)[None, :]
  used = place < load[expert][:, None]
  at = jnp.where(used, first_slot[expert][:, None] + place, 0)
  return Tiles(last_tile[-1], expert, jnp.where(used, order[at], none))
