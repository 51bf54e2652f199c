"""One suite for every implementation of `row_matmul`."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import INT4, INT8, Form, dequantize, quantize, row_matmul, row_matmuls
from pallas_kernels.gates.forms import HELD, Held
from tests.pallas_kernels.weights.holding import held

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
SIZES = ((1, 32, 16), (5, 48, 80), (2, 16, 6), (16, 64, 48), (33, 96, 32), (64, 32, 128))
run = jax.jit(row_matmul, static_argnames=("implementation", "norm_eps", "dtype"))


@st.composite
def inputs(draw):
  rows, inner, columns = draw(st.sampled_from(SIZES))
  random = np.random.default_rng(draw(st.integers(0, 2**16)))

  def array(*shape):
    return jnp.asarray(random.normal(size=shape), jnp.bfloat16)

  extras = {
    "norm_scale": array(inner) if draw(st.booleans()) else None,
    "bias": array(columns) if draw(st.booleans()) else None,
    "residual_TO": array(rows, columns) if draw(st.booleans()) else None,
  }
  return array(rows, inner), array(columns, inner), extras


def normed(x, norm_scale, eps):
  x = np.asarray(x, np.float64)
  if norm_scale is None:
    return x
  return x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + eps) * np.asarray(norm_scale, np.float64)


def by_numpy(x, weight, norm_scale, bias, residual_TO, eps):
  x, weight = normed(x, norm_scale, eps), np.asarray(weight, np.float64)
  y = x @ weight.T
  for added in (bias, residual_TO):
    y = y if added is None else y + np.asarray(added, np.float64)
  return y, np.abs(x) @ np.abs(weight).T


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
class TestRowMatmul:
  @given(case=inputs())
  @settings(max_examples=10)
  def test_equals_the_definition(self, implementation, case):
    x, weight, extras = case
    y = run(x, weight, **extras, norm_eps=1e-3, dtype="float32", implementation=implementation)
    expected, size = by_numpy(x, weight, **extras, eps=1e-3)
    # A normed row is rounded to 8 bits once; a product of bfloat16 numbers is exact in float32.
    tolerance = 2**-8 if extras["norm_scale"] is not None else 2**-20
    assert np.all(np.abs(np.asarray(y) - expected) <= tolerance * size + 1e-6)

  def test_several_weights_are_as_many_products(self, implementation):
    random = np.random.default_rng(1)
    x, *weights = (jnp.asarray(random.normal(size=(rows, 48)), jnp.bfloat16) for rows in (5, 80, 16, 24))
    scale, bias = (jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in (48, 16))
    options = {"norm_scale": scale, "norm_eps": 1e-3, "dtype": "float32", "implementation": implementation}
    together = row_matmuls(x, weights, biases=(None, bias, None), **options)
    for y, weight, own in zip(together, weights, (None, bias, None), strict=True):
      np.testing.assert_array_equal(y, row_matmul(x, weight, bias=own, **options))

  @pytest.mark.parametrize("rows", [5, 33])
  def test_the_rows_that_are_used_are_as_among_all(self, implementation, rows):
    random, sizes = np.random.default_rng(2), ((rows, 64), (32, 64), (rows, 32))
    x, weight, residual = (jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in sizes)
    options = {"norm_scale": jnp.ones(64, jnp.bfloat16), "residual_TO": residual, "implementation": implementation}
    whole = np.asarray(run(x, weight, **options), np.float32)
    for used in (0, 3, rows, rows + 1):
      y = np.asarray(run(x, weight, used=jnp.int32(used), **options), np.float32)
      np.testing.assert_array_equal(y[:used], whole[:used])
      assert np.isfinite(y).all()

  def test_rows_do_not_meet(self, implementation):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(7, 64)), jnp.bfloat16)
    weight, scale = jnp.asarray(random.normal(size=(32, 64)), jnp.bfloat16), jnp.ones(64, jnp.bfloat16)
    y = run(x, weight, norm_scale=scale, implementation=implementation)
    poisoned = run(x.at[3].set(jnp.nan), weight, norm_scale=scale, implementation=implementation)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(poisoned[others], y[others])
    assert np.isnan(np.asarray(poisoned[3], np.float32)).all()
    assert y.dtype == jnp.bfloat16


@pytest.mark.parametrize("weights", ["bfloat16", "float32", "int8", "int4"])
@pytest.mark.parametrize("inner", [40, 1100, 4433])
def test_a_row_among_many_has_the_same_bits_as_alone_natively(weights, inner):
  random = np.random.default_rng(inner)
  dtype = jnp.bfloat16 if weights == "bfloat16" else jnp.float32
  x, weight = (jnp.asarray(random.normal(size=(rows, inner)), dtype) for rows in (103, 75))
  if weights in ("int8", "int4"):
    weight = held_in(weight, INT8 if weights == "int8" else INTERLEAVED)
  many = run(x, weight, dtype="float32", implementation="cpu")
  for rows in (slice(5, 6), slice(40, 53), slice(60, 90)):
    few = run(x[rows], weight, dtype="float32", implementation="cpu")
    np.testing.assert_array_equal(many[rows], few)


INTERLEAVED = Form(code="int4", group=32, layout="interleaved")


def held_in(weight, form: Form | Held = INT8):
  if isinstance(form, Held):
    return held(weight, form)
  return jax.tree.map(jnp.asarray, quantize(np.asarray(weight), form))


def quantised_bound(x, weight, implementation, narrow, norm_scale, size):
  """By how much a product may differ from that of the numbers that the weight stands for."""
  if implementation == "pallas":
    # A normed row is rounded to 8 bits once, and numbers are not.
    return (2**-8 if norm_scale is not None else 2**-20) * size
  if implementation == "reference":
    # A normed bfloat16 row is rounded to 8 bits once, as are weights in groups that meet bfloat16 rows.
    rounded = (norm_scale is not None) + (weight.form.group is not None)
    return (rounded * 2**-8 if narrow and rounded else 2**-20) * size
  # Half a step of a row's largest number, for every weight that it meets. A row has 16 bits with its sign, or 8 bits
  # and a largest number for every 32 values.
  row, sizes = normed(x, norm_scale, 1e-3), np.abs(np.asarray(dequantize(weight), np.float64))
  block, steps = (row.shape[1], 32767) if weight.form.group is None else (32, 127)
  bound = 2**-20 * size
  for start in range(0, row.shape[1], block):
    taken = slice(start, start + block)
    bound += 0.5 / steps * np.abs(row[:, taken]).max(axis=1, keepdims=True) * sizes[:, taken].sum(axis=1)
  return bound


QUANTISED = (
  ("cpu", INT8),
  ("cpu", INTERLEAVED),
  ("reference", INT8),
  ("reference", INT4),
  ("pallas", HELD["int4, groups of 32"]),
)


@pytest.mark.parametrize(
  ("implementation", "form"),
  QUANTISED,
  ids=[f"{name}-{form.form.code if isinstance(form, Held) else form}" for name, form in QUANTISED],
)
class TestQuantisedRowMatmul:
  @given(case=inputs(), narrow=st.booleans())
  @settings(max_examples=6)
  def test_equals_the_definition_on_the_weights_that_it_stands_for(self, implementation, form, case, narrow):
    x, weight, extras = case
    if not narrow and implementation != "pallas":
      x, extras = jax.tree.map(lambda array: array.astype(jnp.float32), (x, extras))
    weight = held_in(weight, form)
    y = run(x, weight, **extras, norm_eps=1e-3, dtype="float32", implementation=implementation)
    expected, size = by_numpy(x, dequantize(weight), **extras, eps=1e-3)
    bound = quantised_bound(x, weight, implementation, narrow, extras["norm_scale"], size)
    assert np.all(np.abs(np.asarray(y) - expected) <= bound + 1e-6)

  def test_several_weights_are_as_many_products(self, implementation, form):
    random = np.random.default_rng(1)
    x, *weights = (jnp.asarray(random.normal(size=(rows, 48)), jnp.bfloat16) for rows in (5, 80, 16, 24))
    scale, bias = (jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in (48, 16))
    weights = [held_in(weight, form) for weight in weights]
    options = {"norm_scale": scale, "norm_eps": 1e-3, "dtype": "float32", "implementation": implementation}
    together = row_matmuls(x, weights, biases=(None, bias, None), **options)
    for y, weight, own in zip(together, weights, (None, bias, None), strict=True):
      np.testing.assert_array_equal(y, row_matmul(x, weight, bias=own, **options))

  def test_rows_do_not_meet_and_outputs_of_zeros_give_zeros(self, implementation, form):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(7, 64)), jnp.bfloat16)
    weight = held_in(jnp.asarray(random.normal(size=(32, 64))).at[9].set(0), form)
    y = run(x, weight, implementation=implementation)
    poisoned = run(x.at[3].set(jnp.nan), weight, implementation=implementation)
    others = np.arange(7) != 3
    np.testing.assert_array_equal(poisoned[others], y[others])
    assert np.isnan(np.asarray(poisoned[3], np.float32)).all()
    np.testing.assert_array_equal(np.asarray(y, np.float32)[:, 9], 0)


# Inputs of several steps, the last of them not full, for every form and for few rows and many.
@pytest.mark.parametrize(("name", "rows"), list(zip(HELD, itertools.cycle((33, 5)), strict=False)))
def test_weights_in_tiles_sum_over_all_steps(name, rows):
  random = np.random.default_rng(3)
  x, weight = (jnp.asarray(random.normal(size=(count, 304)), jnp.bfloat16) for count in (rows, 40))
  narrow = held_in(weight, HELD[name])
  extras = {"norm_scale": jnp.asarray(random.normal(size=304), jnp.bfloat16), "bias": None, "residual_TO": None}
  y = run(x, narrow, **extras, norm_eps=1e-3, dtype="float32", implementation="pallas")
  expected, size = by_numpy(x, dequantize(narrow), **extras, eps=1e-3)
  assert np.all(np.abs(np.asarray(y) - expected) <= 2**-8 * size)


def test_weights_of_several_forms_are_named_and_go_to_the_reference():
  x, weight = jnp.ones((3, 64), jnp.bfloat16), jnp.ones((16, 64), jnp.bfloat16)
  narrow, tiles = held_in(weight), held_in(weight, HELD["int8"])
  with pytest.raises(NotImplementedError, match=r"int8 weights in the layout 'tiles' \(`relayout`\), not 'rows'"):
    row_matmul(x, narrow, implementation="pallas")
  with pytest.raises(NotImplementedError, match=r"weights of one form, not of several \(int8 and plain arrays\)"):
    row_matmuls(x, [tiles, weight], implementation="pallas")
  with pytest.raises(NotImplementedError, match="weights of several forms, int8 and plain arrays: one form for all"):
    row_matmuls(x, [narrow, weight], implementation="cpu")
  for y in row_matmuls(x, [narrow, tiles, weight]):
    np.testing.assert_array_equal(np.asarray(y, np.float32), 64)


def test_forms_that_native_code_does_not_read_are_named():
  x, weight = jnp.ones((3, 64)), jnp.ones((16, 64))
  read = held_in(weight, INTERLEAVED)
  for form, message in (
    (held_in(weight, INT4), "expected int8 as .*, or int4 in groups of 32 or a multiple of it, interleaved"),
    (dataclasses.replace(read, zeros=read.scales), "weights with zeros of their own"),
    (dataclasses.replace(read, scales=read.scales.astype(jnp.float32)), "scales of float32: bfloat16 or float16"),
  ):
    with pytest.raises(NotImplementedError, match=message):
      row_matmul(x, form, implementation="cpu")


def test_what_the_kernel_cannot_take_goes_to_the_reference():
  x, weight = jnp.ones((3, 17), jnp.bfloat16), jnp.ones((5, 17), jnp.bfloat16)
  np.testing.assert_array_equal(run(x, weight), run(x, weight, implementation="reference"))
  for bad, message in (
    ((x, weight), "rows of a multiple of 16 values, not 17"),
    ((jnp.ones((3, 16)), jnp.ones((16, 16))), "bfloat16 or float16, not float32"),
    ((jnp.ones((65, 16), jnp.bfloat16), jnp.ones((16, 16), jnp.bfloat16)), "at most 64 rows, not 65"),
  ):
    with pytest.raises(NotImplementedError, match=message):
      run(*bad, implementation="pallas")


def test_shapes_that_do_not_fit_are_named(own_errors):
  with pytest.raises(ValueError, match=r"x \(3, 16\) and weight \(16, 32\) do not fit"):
    row_matmul(jnp.ones((3, 16)), jnp.ones((16, 32)))


@pytest.mark.parametrize("implementation", ["pallas", "reference", None])
@pytest.mark.parametrize("inner", [64, 80])
def test_float16_rows_that_overflow_times_the_scale_are_normed_first(implementation, inner):
  random = np.random.default_rng(11)
  # The largest float16 is 65504. Some products of a value and its scale are above it, and a root mean square is not.
  x = jnp.asarray(random.normal(size=(5, inner)) * 1e4, jnp.float16)
  scale = jnp.asarray(10 * (1 + random.random(inner)), jnp.float16)
  weight = jnp.asarray(random.normal(size=(20, inner)) / 8, jnp.float16)
  assert np.abs(np.asarray(x, np.float64) * np.asarray(scale, np.float64)).max() > 65504
  y = row_matmul(x, weight, norm_scale=scale, norm_eps=1e-6, dtype="float32", implementation=implementation)
  wide, by = np.asarray(x, np.float64), np.asarray(scale, np.float64)
  normed = wide / np.sqrt(np.mean(wide * wide, axis=1, keepdims=True) + 1e-6) * by
  expected = normed @ np.asarray(weight, np.float64).T
  # A normed row is rounded to 11 bits once.
  np.testing.assert_allclose(y, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
