"""Block tables as kernels on GPUs read them: the rules of `pallas_kernels.block_tables`, for one row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.gpu.triton_backend import plgpu


class RowTable(NamedTuple):
  """The table of a row's slot.

  Attributes:
    tables: the tables of all slots, a ref [S, M].
    slot: the row's slot, a scalar; it may be none of them.
    pool_blocks: blocks of the pool (P).
  """

  tables: Any
  slot: jax.Array
  pool_blocks: int

  @property
  def positions(self) -> int:
    """How many positions a table has room for."""
    return self.tables.shape[1] * BLOCK

  def block(self, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The block of some positions, and whether there is one; where there is none the block is 0."""
    slots, entries = self.tables.shape
    entry = position // BLOCK
    inside = (self.slot >= 0) & (self.slot < slots) & (position >= 0) & (entry < entries)
    block = plgpu.load(self.tables.at[jnp.where(inside, self.slot, 0), jnp.where(inside, entry, 0)])
    found = inside & (block >= 0) & (block < self.pool_blocks)
    return jnp.where(found, block, 0), found
