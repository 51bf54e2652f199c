"""One suite for every implementation of `latent_attention`, judged by the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import latent_attention
from pallas_kernels.block_tables import BLOCK, BlockTables
from tests.pallas_kernels.paged import paged_rows, seen_by_numpy

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
PAGED = ("pallas", "cpu", "reference")
# Rows, heads, width of the latent, of the rotary key, positions of the cache.
SIZES = ((1, 4, 32, 16, 12), (3, 6, 16, 16, 40), (2, 20, 64, 32, 600))
SCALE = 0.3


def by_numpy(query, cache, positions, value_width):
  places = [[(row, p) for p in range(position + 1)] for row, position in enumerate(positions)]
  return over_places(query, cache, places, value_width)


def over_places(query, cache, places, value_width):
  """Attention of each row over its list of places [block or row, position] in a cache [., positions, W]."""
  query, cache = np.asarray(query, np.float64), np.asarray(cache, np.float64)
  mixed = np.zeros((*query.shape[:2], value_width))
  for row, head in np.ndindex(query.shape[:2]):
    if not places[row]:
      continue
    seen = cache[tuple(np.transpose(places[row]))]
    scores = seen @ query[row, head] * SCALE
    share = np.exp(scores - scores.max())
    mixed[row, head] = share @ seen[:, :value_width] / share.sum()
  return mixed


@functools.cache
def compiled(implementation, value_width):
  return jax.jit(
    functools.partial(latent_attention, value_width=value_width, scale=SCALE, implementation=implementation)
  )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestLatentAttention:
  @given(data=st.data())
  @settings(max_examples=8)
  def test_equals_the_definition(self, implementation, dtype, data):
    rows, heads, rank, rope, capacity = data.draw(st.sampled_from(SIZES))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    query = jnp.asarray(random.normal(size=(rows, heads, rank + rope)), dtype)
    cache = jnp.asarray(random.normal(size=(rows, capacity, rank + rope)), dtype)
    positions = random.integers(0, capacity, size=rows).astype(np.int32)
    positions[0] = data.draw(st.sampled_from([0, capacity - 1, int(positions[0])]))
    # What lies past a row's position may hold anything.
    past = np.arange(capacity)[None] > positions[:, None]
    cache = jnp.where(past[:, :, None], jnp.asarray(1e4, dtype), cache)
    mixed = compiled(implementation, rank)(query, cache, jnp.asarray(positions))
    assert mixed.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
    expected = by_numpy(query, cache, positions, rank)
    np.testing.assert_allclose(np.asarray(mixed, np.float64), expected, rtol=tolerance, atol=tolerance)


POOL = 24
ROWS = 4


@pytest.mark.parametrize("implementation", PAGED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@given(data=st.data())
@settings(max_examples=15)
def test_rows_of_a_pool_see_what_their_tables_hold(implementation, dtype, data):
  heads, rank, rope, entries = data.draw(st.sampled_from([(4, 32, 16, 3), (20, 16, 16, 20)]))
  tables, slots, positions = data.draw(paged_rows(rows=ROWS, entries=entries, pool_blocks=POOL))
  random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
  query = jnp.asarray(random.normal(size=(ROWS, heads, rank + rope)), dtype)
  cache = random.normal(size=(POOL, BLOCK, rank + rope))
  places = [
    list(seen_by_numpy(tables, slot, position, POOL).values()) for slot, position in zip(slots, positions, strict=True)
  ]
  # What no row sees may hold anything, also NaN.
  unseen = np.ones((POOL, BLOCK), bool)
  unseen[tuple(np.transpose(sum(places, [(0, 0)])))] = False
  cache = jnp.asarray(np.where(unseen[:, :, None], np.nan, cache), dtype)
  blocks = BlockTables(jnp.asarray(tables), jnp.asarray(slots))
  mixed = compiled(implementation, rank)(query, cache, jnp.asarray(positions), blocks=blocks)
  assert mixed.dtype == dtype
  tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
  expected = over_places(query, cache, places, rank)
  np.testing.assert_allclose(np.asarray(mixed, np.float64), expected, rtol=tolerance, atol=tolerance)
  absent = [not row for row in places]
  assert not np.asarray(mixed, np.float32)[absent].any()


def test_values_are_the_beginning_of_a_cached_row(own_errors):
  with pytest.raises(ValueError, match="value_width is 9: expected 1 to 8, the width of a cached row"):
    latent_attention(jnp.zeros((1, 2, 8)), jnp.zeros((1, 4, 8)), jnp.zeros(1, jnp.int32), value_width=9, scale=1.0)
