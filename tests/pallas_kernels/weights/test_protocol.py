"""Every form of a weight answers alike: the same shape, parts and products as the plain array that it stands for."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels import INT4, INT8, MXFP4, Form, QuantizedWeight, bits_of, quantize
from pallas_kernels.weights.base import dequantize, factor, form_of, held_as, is_exact, on_host, rows_at, scaled, take
from pallas_kernels.weights.layouts import by_block, packed

QUANTISED = {
  "int8": INT8,
  "int8 in groups": Form(code="int8", group=64, layout="interleaved"),
  "int4": INT4,
  "int4 in groups of 64": Form(code="int4", group=64, layout="interleaved"),
  "int8 in tiles": Form(code="int8", layout="tiles"),
  "int4 in tiles": Form(code="int4", group=32, layout="tiles"),
}
FLOATS = {
  "e2m1": MXFP4,
  "e2m1 in groups of 16": Form(code="e2m1", group=16, layout="interleaved"),
  "e4m3": Form(code="e4m3"),
  "e4m3 in groups of 64": Form(code="e4m3", group=64),
  "e2m1 in tiles": Form(code="e2m1", group=32, layout="tiles"),
  "e4m3 in tiles": Form(code="e4m3", group=64, layout="tiles"),
}
SCALES = {
  "e2m1": jnp.float8_e8m0fnu,
  "e2m1 in groups of 16": jnp.float8_e4m3fn,
  "e4m3": jnp.float32,
  "e4m3 in groups of 64": jnp.float32,
  "e2m1 in tiles": jnp.float8_e8m0fnu,
  "e4m3 in tiles": jnp.float32,
}


def held_floats(weight, name):
  """Any stored floats but NaN, and scales from 1/4 to 4, of a weight of that shape."""
  form, random = FLOATS[name], np.random.default_rng(2)
  stored = random.integers(0, 2**form.bits - 1, weight.shape).astype(np.uint8)
  scales = np.exp2(random.integers(-2, 3, (*weight.shape[:-1], form.groups(weight.shape[-1]))))
  return QuantizedWeight(
    values=packed(np.where(stored == 127, 0, stored), form),
    scales=by_block(scales.astype(SCALES[name]), form, weight.shape),
    form=form,
    matrix=weight.shape[-2:],
    numbers=weight.dtype.name,
  )


FORMS = {"plain": lambda weight: weight, "bfloat16 bits": bits_of}
FORMS |= {name: functools.partial(quantize, form=form) for name, form in QUANTISED.items()}
FORMS |= {name: functools.partial(held_floats, name=name) for name in FLOATS}
QUANTISED |= FLOATS
# Bytes of three weights [5, 70]: outputs are filled up to 16, inputs to whole groups, lines or blocks.
BYTES = {
  "plain": 2 * 1050, "bfloat16 bits": 2 * 1050, "int8": 1050 + 4 * 15,
  "int8 in groups": 3 * 16 * (128 + 4 * 2), "int4": 15 * (48 + 2 * 3), "int4 in groups of 64": 3 * 16 * (64 + 2 * 2),
  "e2m1": 15 * (48 + 3), "e2m1 in groups of 16": 3 * 16 * (40 + 5), "e4m3": 15 * (70 + 4),
  "e4m3 in groups of 64": 15 * (128 + 4 * 2), "int8 in tiles": 3 * 16 * (128 + 4),
  "int4 in tiles": 3 * 16 * (64 + 2 * 4), "e2m1 in tiles": 3 * 16 * (64 + 4), "e4m3 in tiles": 3 * 16 * (128 + 4 * 2),
}  # fmt: skip


def stack(form: str, *, arrays=jnp.asarray):
  """Three weights [5, 70] in the form, and the float32 numbers that they stand for."""
  numbers = np.random.default_rng(0).normal(size=(3, 5, 70)).astype(jnp.bfloat16)
  held = jax.tree.map(arrays, FORMS[form](numbers))
  return held, numbers_of(held) if form in QUANTISED else numbers.astype(np.float32)


MEANT = {
  "int8": float,
  "int4": lambda stored: stored - 8.0,
  "e2m1": lambda stored: np.uint8(stored).view(ml_dtypes.float4_e2m1fn).astype(np.float32),
  "e4m3": lambda stored: np.uint8(stored).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
}


def numbers_of(held):
  """The definition of the layouts, a number at a time."""
  form, values, scales = held.form, np.asarray(held.values), np.asarray(held.scales, np.float32)
  wide = np.empty(held.shape, np.float32)
  for *at, o, i in np.ndindex(*held.shape):
    if form.layout == "rows":
      byte = values[(*at, o, i // form.in_byte)]
      high = i % form.in_byte
      scale = scales[(*at, o, i // (form.group or 1000))]
    elif form.layout == "tiles":
      block, place = divmod(i, 32 * 16 // form.bits)
      word = int(values[(*at, o // 16, block, o % 16, place % 32)])
      byte, high = word >> form.bits * (place // 32) & 2**form.bits - 1, 0
      byte = np.uint8(byte).view(np.int8) if form.code == "int8" else byte
      scale = scales[(*at, o // 16, i // (form.group or 1000), o % 16)]
    else:
      line, place = divmod(i, 4 * form.in_byte)
      high, byte = place // 4, values[(*at, o // 16, line, o % 16 * 4 + place % 4)]
      scale = scales[(*at, o // 16, i // (form.group or 1000), o % 16)]
    stored = byte if form.bits == 8 else (byte >> 4 * high) % 16
    wide[(*at, o, i)] = scale * MEANT[form.code](stored)
  return wide


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_says_what_it_stands_for(form):
  held, numbers = stack(form)
  assert (held.shape, held.dtype) == (numbers.shape, jnp.bfloat16)
  assert held_as(held) == {"plain": None, "bfloat16 bits": form}.get(form, form.split()[0])
  assert held.nbytes == BYTES[form]
  np.testing.assert_array_equal(dequantize(held), numbers)
  again = jax.tree.unflatten(jax.tree.structure(held), jax.tree.leaves(held))
  assert (again.shape, again.dtype) == (held.shape, held.dtype)


@pytest.mark.parametrize("form", FORMS)
def test_one_of_a_stack_is_a_weight_of_the_same_form(form):
  held, numbers = stack(form)
  one = jax.jit(take)(held, 1)
  assert held_as(one) == held_as(held)
  np.testing.assert_array_equal(dequantize(one), numbers[1])


@pytest.mark.parametrize("form", FORMS)
def test_products_and_rows_are_those_of_the_numbers(form):
  held, numbers = stack(form)
  x = np.random.default_rng(1).normal(size=(2, 70)).astype(jnp.bfloat16)
  products = jnp.einsum("ti,eoi->teo", x, factor(held, jnp.bfloat16), preferred_element_type=jnp.float32)
  expected = np.einsum("ti,eoi->teo", x.astype(np.float64), numbers.astype(np.float64))
  # Weights in groups are rounded to bfloat16, with their scales, before they are multiplied.
  sizes = np.einsum("ti,eoi->teo", np.abs(x.astype(np.float64)), np.abs(numbers.astype(np.float64)))
  found = form_of(held)
  tolerance = 2**-9 if found is not None and found.group else 1e-6
  assert np.all(np.abs(scaled(products, held) - expected) <= tolerance * sizes + 1e-5)
  ids = jnp.array([[4, 0], [1, 1]])
  rows = rows_at(take(held, 2), ids)
  assert rows.dtype == jnp.bfloat16
  np.testing.assert_array_equal(rows, numbers[2][np.asarray(ids)].astype(jnp.bfloat16))


@pytest.mark.parametrize("form", ["plain", "bfloat16 bits"])
@pytest.mark.parametrize("arrays", [np.asarray, jnp.asarray])
def test_exact_forms_go_back_to_the_host_as_they_were(form, arrays):
  held, numbers = stack(form, arrays=arrays)
  assert is_exact(held)
  np.testing.assert_array_equal(np.asarray(on_host(held), np.float32), numbers)


@pytest.mark.parametrize("form", QUANTISED)
def test_quantised_weights_have_no_way_back(form):
  held, _ = stack(form)
  assert not is_exact(held)
  with pytest.raises(ValueError, match=f"{form[:4]} weights have lost the numbers that they were made of"):
    on_host(held)
