"""One suite for every implementation of `decode_attention`, judged by the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import decode_attention
from pallas_kernels.block_tables import BLOCK, BlockTables
from pallas_kernels.decode_attention.triton import split_count
from tests.pallas_kernels.paged import paged_rows, seen_by_numpy

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
PAGED = ("pallas", "cpu", "reference")
# Rows, heads, groups, width of a head, positions of the cache: with one part and with several.
SIZES = ((1, 4, 1, 16, 12), (3, 6, 2, 16, 40), (2, 4, 4, 32, 600), (1, 8, 1, 16, 1100))


def by_numpy(query, key, value, positions, window, chunk, scale, sinks):
  end = [min(position + 1, key.shape[2]) for position in positions]
  seen = [range(first_seen(position, window, chunk), end[row]) for row, position in enumerate(positions)]
  places = [[(row, p) for p in some] for row, some in enumerate(seen)]
  return over_places(query, key, value, places, scale, sinks)


def first_seen(position, window, chunk):
  first = 0 if window is None else max(0, position + 1 - window)
  return max(first, position // chunk * chunk) if chunk else first


def over_places(query, key, value, places, scale, sinks):
  """Attention of each row over its list of places [block or row, position] in keys and values [., G, positions, H]."""
  query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
  mixed = np.zeros_like(query)
  for row, head in np.ndindex(query.shape[:2]):
    if not places[row]:
      continue
    group, (at, offset) = head * key.shape[1] // query.shape[1], np.transpose(places[row])
    scores = key[at, group, offset] @ query[row, head] * (scale or query.shape[2] ** -0.5)
    top = scores.max() if sinks is None else max(scores.max(), sinks[head])
    share = np.exp(scores - top)
    total = share.sum() + (0 if sinks is None else np.exp(sinks[head] - top))
    mixed[row, head] = share @ value[at, group, offset] / total
  return mixed


@functools.cache
def compiled(implementation, window, chunk, scale):
  bounds = {"window": window, "chunk": chunk, "scale": scale}
  return jax.jit(functools.partial(decode_attention, **bounds, implementation=implementation))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestDecodeAttention:
  @given(data=st.data())
  @settings(max_examples=12)
  def test_equals_the_definition(self, implementation, dtype, data):
    rows, heads, groups, width, capacity = data.draw(st.sampled_from(SIZES))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    bounds = data.draw(st.sampled_from([(None, None, None), (5, None, None), (300, None, None), (None, 16, 0.3)]))
    query = jnp.asarray(random.normal(size=(rows, heads, width)), dtype)
    key, value = (jnp.asarray(random.normal(size=(rows, groups, capacity, width)), dtype) for _ in range(2))
    positions = random.integers(0, capacity, size=rows).astype(np.int32)
    if data.draw(st.booleans()):
      positions[0] = data.draw(st.sampled_from([0, capacity - 1]))
    sinks = random.normal(0, 3, size=heads).astype(np.float32) if data.draw(st.booleans()) else None
    # What lies past a row's position may hold anything.
    past = np.arange(capacity)[None] > positions[:, None]
    key, value = (jnp.where(past[:, None, :, None], jnp.asarray(1e4, dtype), x) for x in (key, value))
    mixed = compiled(implementation, *bounds)(query, key, value, jnp.asarray(positions), sinks=sinks)
    assert mixed.dtype == dtype
    expected = by_numpy(query, key, value, positions, *bounds, sinks=sinks)
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    np.testing.assert_allclose(np.asarray(mixed, np.float64), expected, rtol=tolerance, atol=tolerance)


POOL = 24
ROWS = 5
# Heads, groups, width of a head, entries of a table; window, chunk, scale; whether there are sinks. A few whole cases,
# because each is a program to compile.
PAGED_CASES = (
  ((6, 2, 16, 3), (None, None, None), False),
  ((6, 2, 16, 3), (5, None, None), True),
  ((4, 4, 32, 3), (None, 48, 0.3), True),
  ((4, 1, 16, 20), (300, None, None), False),
  ((4, 1, 16, 20), (None, None, None), True),
)


@pytest.mark.parametrize("implementation", PAGED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@given(data=st.data())
@settings(max_examples=20)
def test_rows_of_a_pool_see_what_their_tables_hold(implementation, dtype, data):
  (heads, groups, width, entries), bounds, with_sinks = data.draw(st.sampled_from(PAGED_CASES))
  tables, slots, positions = data.draw(paged_rows(rows=ROWS, entries=entries, pool_blocks=POOL))
  random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
  query = jnp.asarray(random.normal(size=(ROWS, heads, width)), dtype)
  key, value = (random.normal(size=(POOL, groups, BLOCK, width)) for _ in range(2))
  sinks = random.normal(0, 3, size=heads).astype(np.float32) if with_sinks else None
  places = []
  for slot, position in zip(slots, positions, strict=True):
    first = first_seen(position, *bounds[:2])
    places.append(list(seen_by_numpy(tables, slot, position, POOL, first).values()))
  # What no row sees may hold anything, also NaN.
  unseen = np.ones((POOL, BLOCK), bool)
  unseen[tuple(np.transpose(sum(places, [(0, 0)])))] = False
  key, value = (jnp.asarray(np.where(unseen[:, None, :, None], np.nan, x), dtype) for x in (key, value))
  blocks = BlockTables(jnp.asarray(tables), jnp.asarray(slots))
  mixed = compiled(implementation, *bounds)(query, key, value, jnp.asarray(positions), sinks=sinks, blocks=blocks)
  assert mixed.dtype == dtype
  tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
  expected = over_places(query, key, value, places, bounds[2], sinks)
  np.testing.assert_allclose(np.asarray(mixed, np.float64), expected, rtol=tolerance, atol=tolerance)
  absent = [not row for row in places]
  assert not np.asarray(mixed, np.float32)[absent].any()


def test_long_sequences_of_few_rows_are_split():
  assert [split_count(rows, 8, 4096) for rows in (1, 2, 16, 64)] == [32, 16, 2, 1]
  assert split_count(1, 8, 100) == 1


def test_what_does_not_fit_is_named(own_errors):
  cache = jnp.zeros((1, 3, 8, 16))
  with pytest.raises(ValueError, match="4 query heads are no multiple of 3 groups of keys"):
    decode_attention(jnp.zeros((1, 4, 16)), cache, cache, jnp.zeros(1, jnp.int32))
  cache = jnp.zeros((1, 3, 8, 24))
  with pytest.raises(NotImplementedError, match="heads of a power of two wide, at least 16, not 24"):
    decode_attention(jnp.zeros((1, 3, 24)), cache, cache, jnp.zeros(1, jnp.int32), implementation="pallas")
