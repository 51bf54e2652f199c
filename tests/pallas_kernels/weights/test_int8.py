"""Quantisation to int8: how far weights move, and what products make of the result."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pallas_kernels import dequantize, quantize
from pallas_kernels.weights.base import rows_at
from pallas_kernels.weights.quantizing import _BLOCK

NARROW = (np.float32, np.float16, ml_dtypes.bfloat16)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
weights = arrays.arrays(np.float32, arrays.array_shapes(min_dims=2, max_dims=3, max_side=6), elements=finite)


@given(weight=weights, dtype=st.sampled_from(NARROW))
def test_no_weight_moves_by_more_than_half_a_step(weight, dtype):
  with np.errstate(over="ignore"):
    weight = weight.astype(dtype)
  wide = np.where(np.isfinite(weight), weight, 1).astype(np.float64)
  held = quantize(wide.astype(dtype))
  values, scales = held.values, held.scales
  assert (values.dtype, values.shape, scales.dtype, scales.shape) == (
    np.int8, wide.shape, np.float32, (*wide.shape[:-1], 1)
  )  # fmt: skip
  exact = np.asarray(values, np.float64) * np.asarray(scales, np.float64)
  # The scale itself has 24 bits: the 127th step may be a few millionths of a step off.
  assert np.all(np.abs(exact - wide) <= (0.5 + 1e-4) * np.asarray(scales, np.float64))
  assert np.all(np.asarray(scales) > 0)
  assert np.asarray(values).min() >= -127
  largest = np.abs(wide).max(axis=-1)
  assert np.all(np.abs(np.asarray(values)).max(axis=-1)[largest > 1e-30] == 127)


@given(values=arrays.arrays(np.int8, (3, 7), elements=st.integers(-127, 127)), power=st.integers(-40, 40))
def test_what_int8_can_hold_is_held_exactly(values, power):
  values[:, 0] = 127
  weight = values.astype(np.float32) * np.float32(2.0) ** power
  held = quantize(weight)
  np.testing.assert_array_equal(held.values, values)
  np.testing.assert_array_equal(dequantize(held), weight)


def test_outputs_of_zeros_stay_zeros_and_the_least_numbers_are_not_lost():
  weight = np.zeros((2, 3, 5), np.float32)
  weight[1, 2] = np.float32(1e-45)
  weight[0, 1] = np.float32(1e-37)
  held = quantize(weight)
  np.testing.assert_array_equal(held.scales[0, [0, 2], 0], 1)
  assert np.isfinite(held.scales).all()
  np.testing.assert_array_equal(np.asarray(held.values)[1], 0)
  np.testing.assert_allclose(np.asarray(dequantize(held))[0, 1], 1e-37, rtol=0.06)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(wrong):
  weight = np.ones((3, 4), ml_dtypes.bfloat16)
  weight[1, 2] = wrong
  with pytest.raises(ValueError, match="NaN or infinite has no 8-bit form: load it in floating point"):
    quantize(weight)


def test_outputs_are_quantised_alone_wherever_a_large_weight_is_cut():
  weight = np.random.default_rng(0).normal(size=(3, _BLOCK // 600, 1000)).astype(ml_dtypes.bfloat16)
  whole = quantize(weight)
  for expert in range(3):
    alone = quantize(weight[expert, ::-1])
    np.testing.assert_array_equal(np.asarray(whole.values)[expert, ::-1], alone.values)
    np.testing.assert_array_equal(np.asarray(whole.scales)[expert, ::-1], alone.scales)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_rows_of_an_embedding_are_those_that_it_stands_for(dtype):
  weight = np.random.default_rng(0).normal(size=(9, 4)).astype(dtype)
  held = jax.tree.map(jnp.asarray, quantize(weight))
  ids = jnp.array([3, 0, 3])
  found = rows_at(held, ids)
  assert found.dtype == weight.dtype
  np.testing.assert_array_equal(found, dequantize(held, dtype)[ids])
