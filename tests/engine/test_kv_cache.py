"""A cache with room begins with the positions that it held."""

import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.kv_cache import with_room
from lynx_jax.models.attention import KeyValueCache


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_what_was_seen_comes_first_and_the_rest_is_room(dtype):
  random = np.random.default_rng(0)
  seen = KeyValueCache(*(jnp.asarray(random.normal(size=(3, 2, 4, 8)), dtype) for _ in range(2)))
  for before, after in zip(seen, with_room(seen, 6), strict=True):
    assert after.shape == (3, 2, 6, 8)
    np.testing.assert_array_equal(after[:, :, :4], before)
    np.testing.assert_array_equal(after[:, :, 4:], 0)
