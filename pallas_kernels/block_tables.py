"""A paged cache: blocks of a pool, and tables that say which block holds which positions of a sequence.

The pool of a layer is [P, G, 32, H] for keys and for values, or [P, 32, W] for latents. A sequence has a slot, and the
slot a table of blocks: position p lies in block `table[p // 32]`, at `p % 32`. Several tables may name one block.

All ops over a paged cache share two rules:
- A row is absent if its position is negative or past its table, its slot has no table, or the block of its position is
  not in the pool. An absent row writes nothing and attends to nothing: its result is zeros.
- A row that is present never sees positions of an entry that is not in the pool. A scheduler may give blocks behind a
  window back and leave -1 in their place.
"""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32, Shaped

from pallas_kernels.checks import require

BLOCK = 32
"""Positions of a block."""

HeadsCache: TypeAlias = Float[Array, "B G C H"] | Float[Array, "P G 32 H"]
"""One layer's keys or values: C positions of each row, or a pool of blocks."""
LatentsCache: TypeAlias = Float[Array, "B C W"] | Float[Array, "P 32 W"]
"""One layer's latents: C positions of each row, or a pool of blocks."""


class BlockTables(NamedTuple):
  """Where the rows of a step find their positions.

  Attributes:
    tables: the blocks of each slot, in the order of positions; an entry outside 0 .. P - 1 is no block.
    slots: the slot of each row. Several rows may have one slot.
  """

  tables: Int32[Array, "S M"]
  slots: Int32[Array, "B"]


class Places(NamedTuple):
  """Where each row's position lies in the pool.

  Attributes:
    block: a block of the pool; P, which is past the last one, for an absent row.
    offset: the position within the block.
  """

  block: Int32[Array, "B"]
  offset: Int32[Array, "B"]


def check_pool(
  name: str, pool: Shaped[Array, "..."], positions: Int32[Array, "B"], blocks: BlockTables | None
) -> BlockTables | None:
  """`blocks` in int32; None, for a dense cache, stays None.

  Raises:
    ValueError: the pool's blocks do not have 32 positions, or not every row has one slot.
  """
  if blocks is None:
    return None
  shape, rows = pool.shape, positions.shape[0]
  require(shape[-2] == BLOCK, f"{name}.shape", shape, f"blocks of {BLOCK} positions before the last axis")
  require(blocks.slots.shape == (rows,), "blocks.slots.shape", blocks.slots.shape, f"a slot for each of {rows} rows")
  return BlockTables(blocks.tables.astype(jnp.int32), blocks.slots.astype(jnp.int32))


def row_tables(blocks: BlockTables, pool_blocks: int) -> Int32[Array, "B M"]:
  """Each row's table; -1 stands for every entry that is no block of a pool of `pool_blocks`."""
  known = (blocks.slots >= 0) & (blocks.slots < blocks.tables.shape[0])
  tables = blocks.tables[jnp.where(known, blocks.slots, 0)]
  return jnp.where(known[:, None] & (tables >= 0) & (tables < pool_blocks), tables, -1)


def places(blocks: BlockTables, positions: Int32[Array, "B"], pool_blocks: int) -> Places:
  """Where each row's position lies in a pool of `pool_blocks` blocks."""
  tables = row_tables(blocks, pool_blocks)
  inside = (positions >= 0) & (positions < tables.shape[1] * BLOCK)
  entry = jnp.where(inside, positions // BLOCK, 0)
  block = jnp.take_along_axis(tables, entry[:, None], axis=1)[:, 0]
  return Places(jnp.where(inside & (block >= 0), block, pool_blocks), jnp.where(inside, positions % BLOCK, 0))


def held(blocks: BlockTables, positions: Int32[Array, "B"], pool_blocks: int) -> Bool[Array, "B C"]:
  """Which of the C = M * 32 positions of its table a row can see, windows and later positions aside.

  They are those that lie in a block of the pool; none for an absent row.
  """
  present = places(blocks, positions, pool_blocks).block < pool_blocks
  return jnp.repeat(row_tables(blocks, pool_blocks) >= 0, BLOCK, axis=1) & present[:, None]


def gather_blocks(pool: Shaped[Array, "P *G 32 H"], blocks: BlockTables) -> Shaped[Array, "B *G C H"]:
  """The positions of each row's table side by side, C = M * 32 of them: a dense cache, as plain JAX attends to it.

  What stands at positions that are not `held` is of no meaning.
  """
  rows = pool[jnp.maximum(row_tables(blocks, pool.shape[0]), 0)]
  rows = jnp.moveaxis(rows, 1, -3)
  return rows.reshape(*rows.shape[:-3], -1, rows.shape[-1])
