"""One suite for every implementation of `greedy_token`, judged by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import greedy_token
from pallas_kernels.cpu import instruction_sets, unavailable
from pallas_kernels.greedy_token.cpu import greedy_token_cpu

IMPLEMENTATIONS = ("cpu", "reference") if unavailable() is None else ("reference",)
choose = jax.jit(greedy_token, static_argnames="implementation")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@given(st.sampled_from([1, 7, 50, 127, 128, 129, 300, 1023, 1024, 1025, 3000]), st.integers(0, 2**16))
@settings(max_examples=60)
def test_it_is_numpys_argmax(implementation, vocab, seed):
  random = np.random.default_rng(seed)
  # Few values, so that many are equal; a row of -inf and one of finite numbers among them.
  logits = random.choice(np.array([-np.inf, -2.0, -0.0, 0.0, 3.0, np.inf], np.float32), size=(5, vocab))
  logits[0], logits[1] = -np.inf, random.normal(size=vocab)
  chosen = choose(logits, implementation=implementation)
  np.testing.assert_array_equal(chosen.ids, np.argmax(logits, axis=1))
  np.testing.assert_array_equal(chosen.finite, np.isfinite(logits).all(axis=1))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("vocab", [9, 1500])
def test_one_value_anywhere_that_is_not_finite_is_seen(implementation, value, vocab):
  places = np.unique(np.linspace(0, vocab - 1, 60).astype(int))
  logits = np.random.default_rng(0).normal(size=(len(places) + 1, vocab)).astype(np.float32)
  logits[np.arange(len(places)), places] = value
  chosen = choose(logits, implementation=implementation)
  assert chosen.finite.tolist() == [False] * len(places) + [True]
  assert ((chosen.ids >= 0) & (chosen.ids < vocab)).all()


@pytest.mark.parametrize("instructions", instruction_sets())
def test_every_instruction_set_agrees(instructions):
  logits = np.random.default_rng(1).normal(size=(4, 2050)).astype(np.float32)
  logits[1, 2049], logits[2, 0], logits[3, 5] = 9.0, 9.0, np.nan
  ids, finite = jax.jit(functools.partial(greedy_token_cpu, instructions=instructions))(logits)
  np.testing.assert_array_equal(ids[:3], np.argmax(logits[:3], axis=1))
  assert finite.tolist() == [True, True, True, False]


def test_what_the_native_code_cannot_take_is_said():
  with pytest.raises(NotImplementedError, match="logits in bfloat16: float32"):
    greedy_token(jnp.zeros((2, 8), jnp.bfloat16), implementation="cpu")
  with pytest.raises(ValueError, match="greedy_token has no implementation 'pallas'"):
    greedy_token(jnp.zeros((2, 8)), implementation="pallas")
