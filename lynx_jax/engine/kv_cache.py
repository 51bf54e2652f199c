"""What attention remembers of the positions seen so far: whole buffers, as each layer's attention lays them out."""

from typing import TypeAlias

import jax
import jax.numpy as jnp

from lynx_jax.models.attention import KeyValueCache
from lynx_jax.models.mla import LatentCache

LayerCache: TypeAlias = KeyValueCache | LatentCache
"""One layer's buffers; positions are the last axis but one, so that room is made for more in any of them alike."""


def with_room(cache: LayerCache, capacity: int) -> LayerCache:
  """The cache of some positions, with room for `capacity`."""

  def place(x: jax.Array) -> jax.Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, capacity - x.shape[-2]), (0, 0)])

  return jax.tree.map(place, cache)
