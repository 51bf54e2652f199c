"""One suite for every implementation of `rms_norm`, judged by NumPy in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import rms_norm
from pallas_kernels.cpu import instruction_sets, unavailable
from pallas_kernels.rms_norm.cpu import rms_norm_cpu

IMPLEMENTATIONS = ("cpu", "reference") if unavailable() is None else ("reference",)
norm = jax.jit(rms_norm, static_argnames=("eps", "implementation"))


def expected(x, scale, eps):
  wide, factors = np.asarray(x, np.float64), np.asarray(scale, np.float64)
  return wide * factors / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + eps)


def rows(seed, *shape, dtype="float32"):
  random = np.random.default_rng(seed)
  return jnp.asarray(random.normal(size=shape), dtype), jnp.asarray(random.normal(size=shape[-1:]), dtype)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@given(
  st.sampled_from([(1, 1), (1, 64), (3, 7), (9, 33), (2, 5, 40), (64,), (2, 1, 3, 16)]),
  st.sampled_from([1e-6, 1e-2]),
  st.integers(0, 2**16),
)
@settings(max_examples=30)
def test_it_is_the_rule(implementation, dtype, shape, eps, seed):
  x, scale = rows(seed, *shape, dtype=dtype)
  y = norm(x, scale, eps=eps, implementation=implementation)
  assert (y.shape, y.dtype) == (x.shape, x.dtype)
  relative = 1e-5 if dtype == "float32" else 2**-8
  np.testing.assert_allclose(np.asarray(y, np.float64), expected(x, scale, eps), rtol=relative, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_of_zeros_stays_zeros_and_nan_stays_in_its_row(implementation):
  x, scale = rows(0, 3, 20)
  x = x.at[0].set(0.0).at[1, 4].set(jnp.nan)
  y = norm(x, scale, eps=1e-5, implementation=implementation)
  np.testing.assert_array_equal(y[0], np.zeros(20))
  assert jnp.isnan(y[1]).all()
  np.testing.assert_allclose(y[2], expected(x[2], scale, 1e-5), rtol=1e-5)


@pytest.mark.parametrize("instructions", instruction_sets())
def test_every_instruction_set_agrees(instructions):
  x, scale = rows(1, 6, 130)
  y = jax.jit(functools.partial(rms_norm_cpu, eps=1e-5, instructions=instructions))(x, scale)
  np.testing.assert_allclose(y, expected(x, scale, 1e-5), rtol=1e-5)


def test_a_row_gives_the_same_alone_and_among_others():
  x, scale = rows(2, 9, 96, dtype="bfloat16")
  together = norm(x, scale, eps=1e-5)
  alone = jnp.concatenate([norm(x[t : t + 1], scale, eps=1e-5) for t in range(9)])
  np.testing.assert_array_equal(together, alone)


def test_it_has_the_references_derivatives():
  x, scale = rows(3, 4, 12)

  def loss(implementation):
    return lambda x, scale: (rms_norm(x, scale, 1e-5, implementation=implementation) ** 3).sum()

  for best, plain in zip(*(jax.grad(loss(name), (0, 1))(x, scale) for name in (None, "reference")), strict=True):
    np.testing.assert_allclose(best, plain, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_said(own_errors):
  with pytest.raises(ValueError, match=r"x \(2, 8\) and scale \(7,\) do not fit"):
    rms_norm(jnp.zeros((2, 8)), jnp.zeros(7), 1e-5)
  with pytest.raises(NotImplementedError, match="rows of bfloat16 and a scale of float32"):
    rms_norm(jnp.zeros((2, 8), jnp.bfloat16), jnp.zeros(8), 1e-5, implementation="cpu")
