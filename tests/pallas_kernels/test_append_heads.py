"""One suite for every implementation of `append_heads`, judged by NumPy in float64."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import append_heads
from pallas_kernels.block_tables import BLOCK, BlockTables
from tests.pallas_kernels.heads import EPS, heads_by_numpy, turned_by_numpy
from tests.pallas_kernels.paged import paged_rows, place_by_numpy, without_shared_places

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
PAGED = ("pallas", "cpu", "reference")
# Rows, query heads, groups, width of a head, positions of the cache.
SIZES = ((1, 2, 1, 16, 4), (5, 6, 3, 8, 7), (3, 4, 4, 16, 9))


@functools.cache
def compiled(implementation, clip, over):
  options = {"normed_over": over, "norm_eps": EPS, "clip": clip, "implementation": implementation}
  return jax.jit(functools.partial(append_heads, **options))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestAppendHeads:
  @given(data=st.data())
  @settings(max_examples=10)
  def test_equals_the_definition_and_writes_one_position_a_row(self, implementation, dtype, data):
    rows, heads, groups, width, capacity = data.draw(st.sampled_from(SIZES))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))

    def array(*shape):
      return jnp.asarray(random.normal(size=shape), dtype)

    query, key, value = array(rows, heads * width), array(rows, groups * width), array(rows, groups * width)
    caches = array(rows, groups, capacity, width), array(rows, groups, capacity, width)
    norms = data.draw(st.sampled_from(["none", "head", "projection"]))
    sizes = {"none": None, "head": (width, width), "projection": (heads * width, groups * width)}[norms]
    query_norm, key_norm = (None, None) if sizes is None else (array(size) for size in sizes)
    over = "head" if norms == "none" else norms
    clip = data.draw(st.sampled_from([None, 0.5]))
    # A position outside the cache is not written.
    positions = random.integers(0, capacity + 1, size=rows).astype(np.int32)
    angles = random.uniform(0, 6, size=(rows, width // 2)).astype(np.float32)
    magnitude = np.float32(data.draw(st.sampled_from([1.0, 1.25])))
    turn = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    turned, *grown = compiled(implementation, clip, over)(
      query, key, value, *caches, positions, *turn, query_norm=query_norm, key_norm=key_norm
    )
    tolerance: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 3e-2}
    expected = turned_by_numpy(heads_by_numpy(query, width, query_norm, clip, over), angles, magnitude)
    np.testing.assert_allclose(np.asarray(turned, np.float64), expected, **tolerance)
    new_key = turned_by_numpy(heads_by_numpy(key, width, key_norm, clip, over), angles, magnitude)
    for before, after, new in zip(caches, grown, (new_key, heads_by_numpy(value, width, None, clip)), strict=True):
      assert after.dtype == dtype
      written = np.arange(capacity)[None] == positions[:, None]
      np.testing.assert_array_equal(
        np.asarray(after, np.float32).swapaxes(1, 2)[~written], np.asarray(before, np.float32).swapaxes(1, 2)[~written]
      )
      inside = positions < capacity
      got = np.asarray(after, np.float64).swapaxes(1, 2)[written]
      np.testing.assert_allclose(got, new[inside], **tolerance)


POOL = 7
ROWS = 6


@pytest.mark.parametrize("implementation", PAGED)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@given(
  paged=paged_rows(rows=ROWS, pool_blocks=POOL), sizes=st.sampled_from([(6, 3, 8), (4, 4, 16)]), seed=st.integers(0)
)
@settings(max_examples=20)
def test_rows_of_a_pool_are_written_where_their_tables_say(implementation, dtype, paged, sizes, seed):
  heads, groups, width = sizes
  tables, slots, positions = without_shared_places(*paged, pool_blocks=POOL)
  random = np.random.default_rng(seed)
  query, key, value, *caches = (
    jnp.asarray(random.normal(size=size), dtype)
    for size in ((ROWS, heads * width), *[(ROWS, groups * width)] * 2, *[(POOL, groups, BLOCK, width)] * 2)
  )
  angles = random.uniform(0, 6, size=(ROWS, width // 2)).astype(np.float32)
  scale = jnp.asarray(random.normal(size=width), dtype)
  turned, *grown = compiled(implementation, None, "head")(
    *(query, key, value, *caches, jnp.asarray(positions), np.cos(angles), np.sin(angles)),
    query_norm=scale,
    key_norm=scale,
    blocks=BlockTables(jnp.asarray(tables), jnp.asarray(slots)),
  )
  tolerance: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 3e-2}
  expected = turned_by_numpy(heads_by_numpy(query, width, scale, None), angles, 1)
  np.testing.assert_allclose(np.asarray(turned, np.float64), expected, **tolerance)
  new_key = turned_by_numpy(heads_by_numpy(key, width, scale, None), angles, 1)
  for before, after, new in zip(caches, grown, (new_key, heads_by_numpy(value, width, None, None)), strict=True):
    untouched, after_wide = np.asarray(before, np.float64), np.array(after, np.float64)
    for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
      if (place := place_by_numpy(tables, slot, position, POOL)) is not None:
        block, offset = place
        np.testing.assert_allclose(after_wide[block, :, offset], new[row], **tolerance)
        after_wide[block, :, offset] = untouched[block, :, offset]
    np.testing.assert_array_equal(after_wide, untouched)


def test_widths_that_do_not_fit_are_named(own_errors):
  cache = jnp.zeros((2, 2, 8, 16))
  with pytest.raises(ValueError, match=r"query \(2, 64\) and key \(2, 48\) do not fit a cache \(2, 2, 8, 16\)"):
    append_heads(
      jnp.zeros((2, 64)),
      jnp.zeros((2, 48)),
      jnp.zeros((2, 48)),
      cache,
      cache,
      jnp.zeros(2, jnp.int32),
      jnp.zeros((2, 8)),
      jnp.zeros((2, 8)),
    )


def test_a_scale_of_another_length_than_the_norm_is_over_is_named(own_errors):
  cache, turn = jnp.zeros((2, 2, 8, 16)), jnp.zeros((2, 8))
  arrays = jnp.zeros((2, 64)), jnp.zeros((2, 32)), jnp.zeros((2, 32)), cache, cache, jnp.zeros(2, jnp.int32), turn, turn
  with pytest.raises(
    ValueError, match=r"query_norm has shape \(64,\): normed_over='head' expects \(16,\); heads are 16 "
  ):
    append_heads(*arrays, query_norm=jnp.ones(64))
  with pytest.raises(ValueError, match=r"key_norm has shape \(16,\): normed_over='projection' expects \(32,\)"):
    append_heads(*arrays, key_norm=jnp.ones(16), normed_over="projection")
  with pytest.raises(ValueError, match="normed_over is 'row': give 'head' or 'projection'"):
    append_heads(*arrays, key_norm=jnp.ones(16), normed_over="row")  # pyright: ignore[reportArgumentType]
