"""Filling and appending, in the dtypes whose writes take different ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.kv_cache import append, fill


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_positions_are_written_where_they_belong_and_nowhere_else(dtype):
  random = np.random.default_rng(0)
  key, value = (jnp.asarray(random.normal(size=(3, 4, 2, 8)), dtype) for _ in range(2))
  cache = fill(key, value, 6)
  assert cache.key.shape == (3, 2, 6, 8)
  np.testing.assert_array_equal(cache.key[:, :, :4], key.swapaxes(1, 2))
  np.testing.assert_array_equal(cache.value[:, :, 4:], 0)
  new_key, new_value = (jnp.asarray(random.normal(size=(3, 1, 2, 8)), dtype) for _ in range(2))
  # The last row's position lies outside the cache.
  grown = jax.jit(append)(cache, new_key, new_value, jnp.asarray([4, 1, 6], jnp.int32))
  for before, after, new in zip(cache, grown, (new_key, new_value), strict=True):
    expected = np.asarray(before).copy()
    expected[0, :, 4], expected[1, :, 1] = new[0, 0], new[1, 0]
    assert after.dtype == dtype
    np.testing.assert_array_equal(after, expected)
