"""One suite for every implementation of `prompt_heads`, judged by NumPy in float64 and by `append_heads`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import append_heads, prompt_heads
from tests.pallas_kernels.heads import EPS, heads_by_numpy, turned_by_numpy

IMPLEMENTATIONS = ("cpu", "reference")
# Rows, positions, query heads, groups, width of a head.
SIZES = ((1, 1, 2, 1, 16), (2, 5, 6, 3, 8), (3, 4, 4, 4, 72), (1, 9, 2, 2, 6))


@functools.cache
def compiled(implementation, clip, over):
  options = {"normed_over": over, "norm_eps": EPS, "clip": clip, "implementation": implementation}
  return jax.jit(functools.partial(prompt_heads, **options))


def drawn(random, size, dtype, norms):
  rows, length, heads, groups, width = size

  def array(*shape):
    return jnp.asarray(random.normal(size=shape), dtype)

  projected = [array(rows * length, count * width) for count in (heads, groups, groups)]
  sizes = {"none": None, "head": (width, width), "projection": (heads * width, groups * width)}[norms]
  angles = random.uniform(0, 6, size=(rows, length, width // 2)).astype(np.float32)
  return projected, angles, [None, None] if sizes is None else [array(size) for size in sizes]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestPromptHeads:
  @given(
    size=st.sampled_from(SIZES),
    seed=st.integers(0, 2**16),
    norms=st.sampled_from(["none", "head", "projection"]),
    clip=st.sampled_from([None, 0.5]),
    magnitude=st.sampled_from([1.0, 1.25]),
  )
  @settings(max_examples=10)
  def test_equals_the_definition(self, implementation, dtype, size, seed, norms, clip, magnitude):
    rows, length, _, _, width = size
    projected, angles, scales = drawn(np.random.default_rng(seed), size, dtype, norms)
    turn = np.cos(angles) * np.float32(magnitude), np.sin(angles) * np.float32(magnitude)
    given_norms = dict(zip(("query_norm", "key_norm"), scales, strict=True))
    over = "head" if norms == "none" else norms
    results = compiled(implementation, clip, over)(*projected, *turn, **given_norms)
    tolerance: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5} if dtype == jnp.float32 else {"rtol": 2e-2, "atol": 3e-2}
    for x, scale, turned, result in zip(projected, (*scales, None), (True, True, False), results, strict=True):
      expected = heads_by_numpy(x, width, scale, clip, over)
      if turned:
        expected = turned_by_numpy(expected, angles.reshape(rows * length, -1), magnitude)
      by_head = expected.reshape(rows, length, -1, width).swapaxes(1, 2)
      assert result.dtype == dtype
      np.testing.assert_allclose(np.asarray(result, np.float64), by_head, **tolerance)

  def test_a_prompt_is_its_tokens_appended_one_by_one(self, implementation, dtype):
    size = rows, length, _, groups, width = 2, 5, 6, 3, 8
    projected, angles, (query_norm, key_norm) = drawn(np.random.default_rng(0), size, dtype, "head")
    options = {"query_norm": query_norm, "key_norm": key_norm, "norm_eps": EPS, "implementation": implementation}
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    query, key, value = projected
    together = prompt_heads(query, key, value, cos, sin, **options)
    query, key, value = (x.reshape(rows, length, -1) for x in projected)
    caches = [jnp.zeros((rows, groups, length, width), dtype)] * 2
    for at in range(length):
      arrays = *(x[:, at] for x in (query, key, value)), *caches, jnp.full(rows, at, jnp.int32), cos[:, at], sin[:, at]
      turned, *caches = append_heads(*arrays, **options)
      self.same(implementation, turned, together[0][:, :, at])
    for cache, whole in zip(caches, together[1:], strict=True):
      self.same(implementation, cache, whole)

  def same(self, implementation, one_by_one, together):
    # XLA may sum up a norm in another order for another shape.
    tolerance = 0 if implementation == "cpu" else 1e-2 if together.dtype == jnp.bfloat16 else 1e-6
    one_by_one, together = (np.asarray(x, np.float32) for x in (one_by_one, together))
    np.testing.assert_allclose(one_by_one, together, rtol=tolerance, atol=tolerance)


def test_derivatives_are_the_references():
  projected, angles, scales = drawn(np.random.default_rng(1), (2, 3, 4, 2, 8), jnp.float32, "projection")

  def loss(implementation, query, key, value, query_norm, key_norm):
    results = prompt_heads(
      query, key, value, jnp.cos(angles), jnp.sin(angles), query_norm=query_norm, key_norm=key_norm,
      normed_over="projection", norm_eps=EPS, implementation=implementation,
    )  # fmt: skip
    return sum(jnp.sum(jnp.sin(x)) for x in results)

  best, reference = (
    jax.grad(functools.partial(loss, implementation), argnums=range(5))(*projected, *scales)
    for implementation in (None, "reference")
  )
  for ours, theirs in zip(best, reference, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_shapes_that_do_not_fit_are_named(own_errors):
  turn = jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))
  message = r"query \(5, 16\) and key \(6, 8\) do not fit cosines \(2, 3, 4\), \[B, L, H / 2\]"
  with pytest.raises(ValueError, match=message):
    prompt_heads(jnp.zeros((5, 16)), jnp.zeros((6, 8)), jnp.zeros((6, 8)), *turn)
