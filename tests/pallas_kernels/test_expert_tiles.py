"""How rows are dealt out to tiles, each of one expert."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels.expert_ffn.loop import tile_size
from pallas_kernels.expert_ffn.tiles import most_tiles, tile_rows

tile_rows_jitted = jax.jit(tile_rows, static_argnums=(2, 3))


@given(st.sampled_from([(1, 4, 2, 1), (40, 9, 4, 8), (13, 3, 3, 4), (9, 1, 1, 4)]), st.integers(0, 2**16))
@settings(max_examples=60)
def test_tiles_hold_every_valid_assignment_once_and_fit(shape, seed):
  rows, experts, top_k, tile = shape
  random = np.random.default_rng(seed)
  ids = np.stack([random.permutation(experts)[:top_k] for _ in range(rows)]).astype(np.int32)
  valid = random.random(rows) < random.random()
  tiles = tile_rows_jitted(jnp.asarray(ids), jnp.asarray(valid), experts, tile)
  count = int(tiles.in_use)
  assert count <= most_tiles(rows * top_k, rows, experts, tile) == tiles.expert.shape[0]
  slots, expert_of = np.asarray(tiles.slot[:count]), np.asarray(tiles.expert[:count])
  held = slots[slots < rows * top_k]
  np.testing.assert_array_equal(np.sort(held), np.flatnonzero(np.repeat(valid, top_k)))
  for expert, row in zip(expert_of, slots, strict=True):
    assert (ids.reshape(-1)[row[row < rows * top_k]] == expert).all()
  # No more tiles than the loads need.
  assert count == sum(-(-load // tile) for load in np.bincount(ids[valid].reshape(-1), minlength=experts))


@pytest.mark.parametrize(("rows", "top_k", "experts"), [(1, 8, 128), (16, 4, 32), (64, 2, 8), (4096, 4, 32)])
def test_tile_sizes_are_powers_of_two_and_no_larger_than_the_rows_need(rows, top_k, experts):
  tile = tile_size(rows, top_k, experts)
  assert tile & (tile - 1) == 0
  assert tile <= max(8, 4 * rows * top_k // experts)


def test_the_tiles_to_run_follow_the_experts_in_use():
  random = np.random.default_rng(5)
  ids = np.stack([random.permutation(32)[:4] for _ in range(16)]).astype(np.int32)
  everyone = jnp.ones(16, bool)
  spread = int(tile_rows(jnp.asarray(ids), everyone, 32, 8).in_use)
  gathered = int(tile_rows(jnp.asarray(ids // 4), everyone, 32, 16).in_use)
  assert spread == len(np.unique(ids))
  assert gathered == len(np.unique(ids // 4)) < spread
