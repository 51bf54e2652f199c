"""Quantisation to four bits: its error against a slow search, and layouts that hold the same numbers."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pallas_kernels import INT4, Form, QuantizedWeight, abstract_quantized, dequantize, quantize, relayout
from pallas_kernels.cpu import unavailable
from pallas_kernels.weights.base import take
from pallas_kernels.weights.quantizing import _by_numpy
from tests.pallas_kernels.weights.test_protocol import numbers_of

NARROW = (np.float32, np.float16, ml_dtypes.bfloat16)
sizes = st.sampled_from([(1, 1), (3, 32), (17, 31), (16, 96), (2, 5, 70), (33, 129)])
groups = st.sampled_from([32, 64, 128])
makers = st.sampled_from([quantize, _by_numpy])


@st.composite
def weights(draw):
  """Normal weights, some of them with outliers, groups of zeros, or numbers of very different sizes."""
  shape, random = draw(sizes), np.random.default_rng(draw(st.integers(0, 2**16)))
  weight = random.normal(size=shape) * 10.0 ** draw(st.integers(-3, 3))
  kind = draw(st.sampled_from(["plain", "outliers", "zeros", "uneven"]))
  if kind == "outliers":
    weight *= np.where(random.random(shape) < 0.05, 20, 1)
  elif kind == "zeros":
    weight[..., :40] = 0
  elif kind == "uneven":
    weight *= 10.0 ** random.integers(-2, 1, shape)
  return weight.astype(draw(st.sampled_from(NARROW)))


def in_groups(array, group):
  """The inputs of each group along a new axis, filled up with zeros."""
  array = np.asarray(array, np.float64)
  filled = np.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, -array.shape[-1] % group)])
  return filled.reshape(*array.shape[:-1], -1, group)


def least_error(group):
  """The least sum of squared errors of one group, over many scales of either sign, each number the nearest."""
  largest = np.abs(group).max()
  if largest == 0:
    return 0.0
  scales = largest / np.linspace(6.5, 10, 100)
  scales = np.concatenate([scales, -scales])[:, None]
  return ((np.clip(np.rint(group / scales), -8, 7) * scales - group) ** 2).sum(axis=1).min()


@given(weight=weights(), group=groups, by=makers)
@settings(max_examples=25)
def test_the_error_is_near_the_least_and_no_larger_than_that_of_rounding(weight, group, by):
  held = by(weight, Form(code="int4", group=group))
  wide, found = in_groups(weight, group), in_groups(dequantize(held), group)
  errors, squares = ((found - wide) ** 2).sum(axis=-1), (wide**2).sum(axis=-1)
  largest = np.take_along_axis(wide, np.abs(wide).argmax(axis=-1)[..., None], axis=-1)
  scale = np.where(largest == 0, 1, largest / -8)
  rounded = ((np.clip(np.rint(wide / scale), -8, 7) * scale - wide) ** 2).sum(axis=-1)
  # Scales have 8 bits: what they are off by costs that share of the largest number, and next to nothing of a group.
  slack = 2**-14 * squares
  assert np.all(errors <= rounded + slack)
  least = np.array([least_error(one) for one in wide.reshape(-1, group)]).reshape(errors.shape)
  assert np.all(errors <= 1.25 * least + slack)


@given(weight=weights(), group=groups, by=makers)
@settings(max_examples=20)
def test_every_number_is_the_nearest_that_its_scale_allows(weight, group, by):
  held = by(weight, Form(code="int4", group=group))
  scales = np.asarray(held.scales, np.float64)[..., None]
  wide, found = in_groups(weight, group), in_groups(dequantize(held), group)
  clipped = np.minimum(np.maximum(wide, np.minimum(-8 * scales, 7 * scales)), np.maximum(-8 * scales, 7 * scales))
  assert np.all(np.abs(found - clipped) <= (0.5 + 1e-5) * np.abs(scales))
  assert np.all(found[wide == 0] == 0)


def test_normal_weights_lose_what_is_published_for_the_search():
  weight = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float32)
  lost = {}
  for group in (32, 128):
    error = np.asarray(dequantize(quantize(weight, Form(code="int4", group=group)))) - weight
    lost[group] = np.sqrt((error**2).sum() / (weight**2).sum())
  assert lost[32] == pytest.approx(0.080, abs=0.002)
  assert lost[128] == pytest.approx(0.096, abs=0.002)


@given(
  numbers=arrays.arrays(np.int8, (3, 70), elements=st.integers(-8, 7)),
  powers=arrays.arrays(np.int8, (3, 3), elements=st.integers(-30, 30)),
)
def test_what_int4_can_hold_is_held_exactly(numbers, powers):
  # With a -8 in each group there is one scale alone that misses nothing.
  numbers[:, [0, 40, 69]] = -8
  weight = numbers * np.repeat(2.0**powers, 32, axis=1)[:, :70].astype(np.float32)
  held = quantize(weight.astype(np.float32), INT4)
  np.testing.assert_array_equal(dequantize(held), weight)


@given(
  weight=weights(),
  form=st.sampled_from([INT4, Form(code="int4", group=128), Form(code="int8"), Form(code="int8", group=32)]),
  layout=st.sampled_from(["interleaved", "tiles"]),
)
@settings(max_examples=24)
def test_layouts_hold_the_same_numbers_and_go_back_bit_for_bit(weight, form, layout):
  held = quantize(weight, form)
  moved = relayout(held, layout)
  assert moved.form == dataclasses.replace(form, layout=layout)
  assert moved.shape == weight.shape
  np.testing.assert_array_equal(numbers_of(moved), dequantize(held))
  again = relayout(moved, "rows")
  np.testing.assert_array_equal(again.values, held.values)
  np.testing.assert_array_equal(again.scales, held.scales)
  direct = quantize(weight, moved.form)
  np.testing.assert_array_equal(direct.values, moved.values)
  expected = abstract_quantized(weight.shape, moved.form, weight.dtype)
  assert (expected.values.shape, expected.scales.shape) == (moved.values.shape, moved.scales.shape)
  assert (expected.values.dtype, expected.scales.dtype) == (moved.values.dtype, moved.scales.dtype)
  assert (expected.shape, expected.dtype, expected.form) == (moved.shape, moved.dtype, moved.form)


@pytest.mark.parametrize("layout", ["rows", "interleaved", "tiles"])
def test_zeros_of_their_own_move_each_group(layout):
  random = np.random.default_rng(0)
  form = Form(code="int4", group=64)
  numbers = random.integers(0, 16, (3, 20, 128)).astype(np.uint8)
  scales, zeros = random.random((3, 20, 2), np.float32), random.integers(0, 16, (3, 20, 2)).astype(np.uint8)
  values = numbers[..., 0::2] | numbers[..., 1::2] << 4
  held = QuantizedWeight(values=values, scales=scales, zeros=zeros, form=form, matrix=(20, 128))
  held = relayout(held, layout)
  wide = (numbers - np.repeat(zeros, 64, axis=-1).astype(np.float32)) * np.repeat(scales, 64, axis=-1)
  np.testing.assert_allclose(dequantize(held), wide, rtol=1e-6)
  np.testing.assert_allclose(dequantize(take(held, 1)), wide[1], rtol=1e-6)
  x = random.normal(size=(2, 128)).astype(np.float32)
  one = held.take(2)
  y = one.scaled(jnp.einsum("ti,oi->to", x, one.factor(np.float32)))
  np.testing.assert_allclose(y, x @ wide[2].T, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(one.rows_at(jnp.array([19, 3])), wide[2][[19, 3]], rtol=1e-6)


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.parametrize("layout", ["rows", "interleaved", "tiles"])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_native_code_makes_what_numpy_makes(layout, dtype):
  weight = np.random.default_rng(0).normal(size=(3, 37, 200)).astype(dtype)
  form = Form(code="int4", group=64, layout=layout)
  native, ours = quantize(weight, form), _by_numpy(weight, form)
  # Where two scales explain as much, sums in another order may prefer the other one.
  assert (native.values == ours.values).mean() > 0.99
  assert (native.scales == ours.scales).mean() > 0.99
  for first, second in ((native, ours), (relayout(native, "rows"), relayout(ours, "rows"))):
    assert (first.values.shape, first.scales.dtype) == (second.values.shape, second.scales.dtype)
  wide, (one, other) = weight.astype(np.float32), (np.asarray(dequantize(made)) for made in (native, ours))
  assert ((one - wide) ** 2).sum() == pytest.approx(((other - wide) ** 2).sum(), rel=1e-4)


def test_tiny_and_huge_weights_are_not_lost():
  for power in (-36, -20, 20, 37):
    weight = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32) * np.float32(10.0**power)
    error = (np.asarray(dequantize(quantize(weight, INT4)), np.float64) - weight) / 10.0**power
    assert np.sqrt((error**2).mean()) < 0.12
  np.testing.assert_array_equal(dequantize(quantize(np.zeros((2, 32), np.float32), INT4)), 0)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(wrong):
  weight = np.ones((3, 40), ml_dtypes.bfloat16)
  weight[1, 39] = wrong
  with pytest.raises(ValueError, match="NaN or infinite has no 4-bit form: load it in floating point"):
    quantize(weight, INT4)


@pytest.mark.parametrize(
  ("wrong", "message"),
  [
    ({"code": "int3"}, "Form.code is 'int3': expected one of int8, int4, e2m1, e4m3"),
    ({"code": "int4", "group": 40}, "Form.group is 40: expected a multiple of 16"),
    ({"code": "int4", "group": 8}, "Form.group is 8: expected a whole number of at least 16"),
    ({"code": "int4", "layout": "columns"}, "Form.layout is 'columns': expected one of rows, interleaved, tiles"),
  ],
)
def test_forms_that_do_not_exist_are_named(own_errors, wrong, message):
  with pytest.raises(ValueError, match=message):
    Form(**wrong)
