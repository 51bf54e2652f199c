"""Where positions of a paged cache lie, judged by the rule in plain Python."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from pallas_kernels.block_tables import BLOCK, BlockTables, check_pool, gather_blocks, held, places
from tests.pallas_kernels.paged import paged_rows, place_by_numpy, seen_by_numpy

POOL = 7


@given(paged=paged_rows(rows=5, pool_blocks=POOL))
@settings(max_examples=50)
def test_each_position_lies_where_its_table_says(paged):
  tables, slots, positions = paged
  blocks = BlockTables(jnp.asarray(tables), jnp.asarray(slots))
  pool = jnp.arange(POOL * 2 * BLOCK * 3).reshape(POOL, 2, BLOCK, 3)
  found, visible = places(blocks, jnp.asarray(positions), POOL), np.asarray(held(blocks, jnp.asarray(positions), POOL))
  dense, latents = (np.asarray(gather_blocks(x, blocks)) for x in (pool, pool[:, 0]))
  for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
    place = place_by_numpy(tables, slot, position, POOL)
    assert (int(found.block[row]), int(found.offset[row])) == (place or (POOL, found.offset[row]))
    seen = seen_by_numpy(tables, slot, position, POOL)
    assert set(np.flatnonzero(visible[row, : position + 1])) == set(seen)
    for p, (block, offset) in seen.items():
      np.testing.assert_array_equal(dense[row, :, p], pool[block, :, offset])
      np.testing.assert_array_equal(latents[row, p], pool[block, 0, offset])
  assert ((np.asarray(found.offset) >= 0) & (np.asarray(found.offset) < BLOCK)).all()


def test_what_does_not_fit_is_named(own_errors):
  blocks = BlockTables(jnp.zeros((2, 4), jnp.int32), jnp.zeros(3, jnp.int32))
  with pytest.raises(ValueError, match=r"key.shape is \(5, 2, 16, 8\): expected blocks of 32 positions before"):
    check_pool("key", jnp.zeros((5, 2, 16, 8)), jnp.zeros(3, jnp.int32), blocks)
  with pytest.raises(ValueError, match=r"blocks.slots.shape is \(3,\): expected a slot for each of 2 rows"):
    check_pool("key", jnp.zeros((5, 2, 32, 8)), jnp.zeros(2, jnp.int32), blocks)
