"""Every form of a weight answers alike: the same shape, parts and products as the plain array that it stands for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import bits_of, quantize
from pallas_kernels.weights.base import dequantize, factor, held_as, is_exact, on_host, rows_at, scaled, take

FORMS = {"plain": lambda weight: weight, "bfloat16 bits": bits_of, "int8": quantize}


def stack(form: str, *, arrays=jnp.asarray):
  """Three weights [5, 4] in the form, and the float32 numbers that they stand for."""
  numbers = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(jnp.bfloat16)
  held = jax.tree.map(arrays, FORMS[form](numbers))
  if form == "int8":
    return held, np.asarray(held.values, np.float32) * np.asarray(held.scales)[..., None]
  return held, numbers.astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_a_weight_says_what_it_stands_for(form):
  held, numbers = stack(form)
  assert (held.shape, held.dtype) == (numbers.shape, jnp.bfloat16)
  assert held_as(held) == (None if form == "plain" else form)
  assert held.nbytes == {"plain": 120, "bfloat16 bits": 120, "int8": 60 + 4 * 15}[form]
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
  x = np.random.default_rng(1).normal(size=(2, 4)).astype(jnp.bfloat16)
  products = jnp.einsum("ti,eoi->teo", x, factor(held, jnp.bfloat16), preferred_element_type=jnp.float32)
  expected = np.einsum("ti,eoi->teo", x.astype(np.float64), numbers.astype(np.float64))
  np.testing.assert_allclose(scaled(products, held), expected, rtol=1e-5, atol=1e-5)
  rows = rows_at(take(held, 2), jnp.array([4, 0]))
  assert rows.dtype == jnp.bfloat16
  np.testing.assert_array_equal(rows, numbers[2][[4, 0]].astype(jnp.bfloat16))


@pytest.mark.parametrize("form", ["plain", "bfloat16 bits"])
@pytest.mark.parametrize("arrays", [np.asarray, jnp.asarray])
def test_exact_forms_go_back_to_the_host_as_they_were(form, arrays):
  held, numbers = stack(form, arrays=arrays)
  assert is_exact(held)
  np.testing.assert_array_equal(np.asarray(on_host(held), np.float32), numbers)


def test_int8_has_no_way_back():
  held, _ = stack("int8")
  assert not is_exact(held)
  with pytest.raises(ValueError, match="int8 weights have lost the numbers that they were made of"):
    on_host(held)
