"""One suite for every implementation of `grouped_matmul`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import grouped_matmul

IMPLEMENTATIONS = ("pallas", "reference")
# Rows, groups, inner and outer width.
SIZES = ((1, 1, 8, 16), (7, 5, 33, 17), (70, 3, 16, 8), (200, 2, 16, 24))


@functools.cache
def compiled(implementation):
  return jax.jit(functools.partial(grouped_matmul, implementation=implementation))


@st.composite
def loads(draw):
  """How many rows each group has: even, all in one, few, or with rows left over."""
  rows, groups, inner, outer = draw(st.sampled_from(SIZES))
  random = np.random.default_rng(draw(st.integers(0, 2**16)))
  kind = draw(st.sampled_from(["random", "one", "left over", "none"]))
  total = {"left over": rows // 2, "none": 0}.get(kind, rows)
  owner = random.integers(0, groups, total) if kind != "one" else np.full(total, random.integers(groups))
  sizes = np.bincount(owner, minlength=groups).astype(np.int32)
  x = random.normal(size=(rows, inner)).astype(np.float32)
  x[total:] = draw(st.sampled_from([0.0, np.nan]))
  return x, random.normal(size=(groups, outer, inner)).astype(np.float32), sizes


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(case=loads())
@settings(max_examples=30)
def test_equals_one_product_a_group(implementation, case):
  x, weights, sizes = case
  y = compiled(implementation)(*(jnp.asarray(a) for a in case))
  expected = np.zeros((x.shape[0], weights.shape[1]))
  end = np.cumsum(sizes)
  for group, (last, size) in enumerate(zip(end, sizes, strict=True)):
    expected[last - size : last] = x[last - size : last].astype(np.float64) @ weights[group].T
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_shapes_that_do_not_fit_are_named(own_errors):
  with pytest.raises(ValueError, match=r"x \(3, 8\), weights \(2, 4, 9\) and sizes \(2,\) do not fit"):
    grouped_matmul(jnp.zeros((3, 8)), jnp.zeros((2, 4, 9)), jnp.zeros(2, jnp.int32))
