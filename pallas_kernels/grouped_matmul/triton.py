"""The experts' tiled product, with each group's rows cut into tiles where they lie."""

import jax
import jax.numpy as jnp

from pallas_kernels.expert_ffn.blocks import tile_rows_for
from pallas_kernels.expert_ffn.tiles import Tiles, most_tiles
from pallas_kernels.expert_ffn.triton import matmul_tiles


def objection(x, weights, sizes) -> str | None:
  """Why the kernel cannot take these arguments, or None."""
  if x.dtype != weights.dtype:
    return f"rows and weights must have one dtype, not {x.dtype.name} and {weights.dtype.name}"
  return None


def grouped_matmul_triton(x: jax.Array, weights: jax.Array, sizes: jax.Array) -> jax.Array:
  """`grouped_matmul` in one launch, after a few over [E] that place the tiles."""
  rows, groups = x.shape[0], weights.shape[0]
  tiles = sorted_tiles(sizes, rows, tile_rows_for(rows, 1, groups))
  y = matmul_tiles(x, weights, tiles, name="grouped_matmul")
  inside = jnp.arange(rows) < jnp.sum(sizes)
  return jnp.where(inside[:, None], y, 0.0).astype(x.dtype)


def sorted_tiles(sizes: jax.Array, rows: int, tile: int) -> Tiles:
  """Tiles of sorted rows; a group's last one may not be full, and places without a row hold `rows`."""
  groups = sizes.shape[0]
  first, tiles = jnp.cumsum(sizes) - sizes, -(-sizes // tile)
  last = jnp.cumsum(tiles)
  index = jnp.arange(most_tiles(rows, rows, groups, tile), dtype=jnp.int32)
  group = jnp.minimum(jnp.searchsorted(last, index, side="right"), groups - 1).astype(jnp.int32)
  place = (index - (last - tiles)[group])[:, None] * tile + jnp.arange(tile, dtype=jnp.int32)[None, :]
  slot = jnp.where(place < sizes[group][:, None], first[group][:, None] + place, rows)
  return Tiles(last[-1], group, slot)
