"""One suite for every implementation of `append_latents`: the result is the cache with the new rows, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import append_latents
from pallas_kernels.block_tables import BLOCK, BlockTables
from tests.pallas_kernels.paged import paged_rows, place_by_numpy, without_shared_places

IMPLEMENTATIONS = ("cpu", "reference")
POOL = 7
ROWS = 6
WIDTH = 48


@functools.cache
def compiled(implementation):
  return jax.jit(functools.partial(append_latents, implementation=implementation))


def normal(random, shape, dtype):
  return jnp.asarray(random.normal(size=shape), dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestAppendLatents:
  @given(positions=st.lists(st.integers(0, 9), min_size=ROWS, max_size=ROWS), seed=st.integers(0, 2**16))
  @settings(max_examples=10)
  def test_each_row_of_a_dense_cache_has_its_latent(self, implementation, dtype, positions, seed):
    random = np.random.default_rng(seed)
    latent, cache = normal(random, (ROWS, WIDTH), dtype), normal(random, (ROWS, 9, WIDTH), dtype)
    expected = np.array(cache)
    for row, position in enumerate(positions):
      expected[row, position : position + 1] = latent[row]
    written = compiled(implementation)(latent, cache, jnp.asarray(positions, jnp.int32))
    assert written.dtype == dtype
    np.testing.assert_array_equal(np.asarray(written), expected)

  @given(paged=paged_rows(rows=ROWS, pool_blocks=POOL), seed=st.integers(0, 2**16))
  @settings(max_examples=20)
  def test_rows_of_a_pool_are_written_where_their_tables_say(self, implementation, dtype, paged, seed):
    tables, slots, positions = without_shared_places(*paged, pool_blocks=POOL)
    random = np.random.default_rng(seed)
    latent, cache = normal(random, (ROWS, WIDTH), dtype), normal(random, (POOL, BLOCK, WIDTH), dtype)
    expected = np.array(cache)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
      if (place := place_by_numpy(tables, slot, position, POOL)) is not None:
        expected[place] = latent[row]
    blocks = BlockTables(jnp.asarray(tables), jnp.asarray(slots))
    written = compiled(implementation)(latent, cache, jnp.asarray(positions), blocks=blocks)
    np.testing.assert_array_equal(np.asarray(written), expected)


def test_dtypes_that_differ_are_named(own_errors):
  with pytest.raises(ValueError, match=r"latent.dtype is dtype.*float32.*: expected the cache's, bfloat16"):
    append_latents(jnp.zeros((1, 8)), jnp.zeros((1, 4, 8), jnp.bfloat16), jnp.zeros(1, jnp.int32))
