"""A cache begins with the prompts' keys and values, heads before positions."""

import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.kv_cache import fill


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_prompts_come_first_and_the_rest_is_room(dtype):
  random = np.random.default_rng(0)
  key, value = (jnp.asarray(random.normal(size=(3, 4, 2, 8)), dtype) for _ in range(2))
  cache = fill(key, value, 6)
  assert cache.key.shape == (3, 2, 6, 8)
  np.testing.assert_array_equal(cache.key[:, :, :4], key.swapaxes(1, 2))
  np.testing.assert_array_equal(cache.value[:, :, :4], value.swapaxes(1, 2))
  np.testing.assert_array_equal(cache.key[:, :, 4:], 0)
  np.testing.assert_array_equal(cache.value[:, :, 4:], 0)
