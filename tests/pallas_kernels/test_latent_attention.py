"""One suite for every implementation of `latent_attention`, judged by the definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import latent_attention

IMPLEMENTATIONS = ("pallas", "reference")
# Rows, heads, width of the latent, of the rotary key, positions of the cache.
SIZES = ((1, 4, 32, 16, 12), (3, 6, 16, 16, 40), (2, 20, 64, 32, 600))
SCALE = 0.3


def by_numpy(query, cache, positions, value_width):
  query, cache = np.asarray(query, np.float64), np.asarray(cache, np.float64)
  mixed = np.zeros((*query.shape[:2], value_width))
  for row, head in np.ndindex(query.shape[:2]):
    seen = cache[row, : positions[row] + 1]
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
  @settings(max_examples=15)
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


def test_values_are_the_beginning_of_a_cached_row(own_errors):
  with pytest.raises(ValueError, match="value_width is 9: expected 1 to 8, the width of a cached row"):
    latent_attention(jnp.zeros((1, 2, 8)), jnp.zeros((1, 4, 8)), jnp.zeros(1, jnp.int32), value_width=9, scale=1.0)
