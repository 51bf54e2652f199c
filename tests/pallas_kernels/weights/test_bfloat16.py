"""Rows of a table: the same as by indexing, with its derivatives, and without a second table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.weights.rows import take_rows


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_rows_and_derivatives_are_those_of_indexing(dtype):
  table, ids = jax.random.normal(jax.random.key(0), (10, 4), dtype), jnp.array([3, 0, 9, 3])
  np.testing.assert_array_equal(take_rows(table, ids), table[ids])
  found, expected = (
    jax.grad(lambda table, take=take: (take(table, ids).astype(jnp.float32) ** 2).sum())(table)
    for take in (take_rows, lambda table, ids: table[ids])
  )
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 50)])
def test_ids_of_any_shape(shape):
  table = jax.random.normal(jax.random.key(0), (70, 5), jnp.bfloat16)
  ids = jax.random.randint(jax.random.key(1), shape, -70, 70)
  np.testing.assert_array_equal(jax.jit(take_rows)(table, ids), table[ids])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's CPU compiler")
def test_a_loop_makes_no_second_table():
  table, start = jax.ShapeDtypeStruct((1000, 64), jnp.bfloat16), jax.ShapeDtypeStruct((4,), jnp.int32)

  def temporary_bytes(take):
    def loop(table, ids):
      body = lambda step, sums: sums + take(table, (ids + step) % 1000).astype(jnp.float32)  # noqa: E731
      return jax.lax.fori_loop(0, 8, body, jnp.zeros((4, 64)))

    analysis = jax.jit(loop).lower(table, start).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes

  assert temporary_bytes(take_rows) < table.size
  if jax.__version_info__ < (0, 11):
    # Why it is there; later versions of XLA do as well on their own.
    assert temporary_bytes(lambda table, ids: table[ids]) > 2 * table.size
