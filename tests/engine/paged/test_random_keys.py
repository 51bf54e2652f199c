"""Keys made on the host are those of JAX's own generator."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lynx_jax.engine.paged.random_keys import stream_key

WORDS = st.integers(0, 2**32 - 1)


@jax.jit
def by_jax(seed, stream):
  return jax.random.key_data(jax.random.fold_in(jax.random.key(seed), stream))


@given(seed=WORDS, stream=WORDS)
def test_a_stream_has_the_key_that_jax_gives_it(seed, stream):
  np.testing.assert_array_equal(stream_key(seed, stream), by_jax(np.uint32(seed), np.uint32(stream)))
