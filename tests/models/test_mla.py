"""Latent attention: its two forms agree, and a row of a padded batch is the row alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lynx_jax.models.declare import Declare
from lynx_jax.models.mla import MLA, MLASpec
from lynx_jax.models.norms import RMSNorm
from lynx_jax.models.rope import RopeSpec, rotation_at

WIDTH = 32


def spec(**changes) -> MLASpec:
  fields = {
    "heads": 3, "rank": 16, "query_rank": None, "key_width": 8, "rope_width": 6, "value_width": 10,
    "rope": RopeSpec(theta=100.0), "scale": 0.4,
  }  # fmt: skip
  return MLASpec(**(fields | changes))


@functools.cache
def layer(of: MLASpec, dtype=jnp.float32) -> tuple[MLA, RMSNorm]:
  made = of.build(WIDTH, 1e-6, Declare(nnx.Rngs(0), jnp.float32))
  random = np.random.default_rng(0)
  drawn = jax.tree.map(lambda leaf: jnp.asarray(random.normal(0, leaf.shape[-1] ** -0.5, leaf.shape), dtype), made)
  return drawn, RMSNorm(WIDTH, 1e-6, Declare(nnx.Rngs(0), dtype))


@jax.jit
def whole(attention: MLA, norm: RMSNorm, x, lengths):
  """Every position of every row in one go: results [B, L, U * N], and the cache."""
  positions = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
  rotation = rotation_at(positions, lengths, attention.spec.rotary)
  projected = attention.project_in(x.reshape(-1, WIDTH), norm)
  attended, cache = attention.attend_prompts(projected, rotation, positions, lengths)
  return attended.reshape(*x.shape[:2], -1), cache


@jax.jit
def step(attention: MLA, norm: RMSNorm, x, cache, positions):
  rotation = rotation_at(positions[:, None], positions + 1, attention.spec.rotary)
  return attention.attend_cached(attention.project_in(x, norm), rotation, cache, positions)


@pytest.mark.parametrize(
  ("changes", "dtype"),
  [
    ({}, jnp.float32),
    ({"query_rank": 12, "bias": True}, jnp.float32),
    ({"neighbours": False, "value_width": 4}, jnp.float32),
    ({"query_rank": 12}, jnp.bfloat16),
  ],
)
def test_the_absorbed_form_equals_the_expanded_one_for_rows_of_unequal_lengths(changes, dtype):
  attention, norm = layer(spec(**changes), dtype)
  lengths, more = np.array([5, 1, 8], np.int32), 4
  x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 12, WIDTH)), dtype)
  expected, seen = whole(attention, norm, x, jnp.asarray(lengths + more))
  # The cache begins with the prompts; what padding left behind them is overwritten before it is seen.
  padding = jnp.arange(12)[None, :, None] >= lengths[:, None, None]
  cache = jax.tree.map(lambda leaf: jnp.where(padding, jnp.asarray(50, dtype), leaf), seen).with_room(16)
  for index in range(more):
    positions = lengths + index
    attended, cache = step(attention, norm, x[np.arange(3), positions], cache, jnp.asarray(positions))
    tolerance = 2e-6 if dtype == jnp.float32 else 3e-2
    theirs = np.asarray(expected[np.arange(3), positions], np.float32)
    np.testing.assert_allclose(np.asarray(attended, np.float32), theirs, rtol=tolerance, atol=tolerance)
  for row, length in enumerate(lengths + more):
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    cached, again = (np.asarray(leaf.latent[row, :length], np.float32) for leaf in (cache, seen))
    np.testing.assert_allclose(cached, again, rtol=tolerance, atol=tolerance)


def test_a_row_of_a_padded_batch_is_the_row_alone():
  attention, norm = layer(spec(query_rank=12))
  x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 9, WIDTH)), jnp.float32)
  lengths = np.array([9, 4, 1], np.int32)
  attended, cache = whole(attention, norm, x, jnp.asarray(lengths))
  for row, length in enumerate(lengths):
    alone, kept = whole(attention, norm, x[row : row + 1, :length], jnp.asarray([length]))
    np.testing.assert_allclose(attended[row, :length], alone[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(cache.latent[row, :length], kept.latent[0], rtol=1e-6, atol=1e-6)
  assert cache.latent.shape == (3, 9, 16 + 6)


def test_sizes_that_cannot_be_turned_are_named(own_errors):
  with pytest.raises(ValueError, match=r"MLASpec\.rope_width is 5: expected an even number"):
    spec(rope_width=5)
