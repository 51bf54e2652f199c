"""Keys and values of the positions seen so far: whole buffers, one pair a layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LayerCache(NamedTuple):
  """One layer's keys and values; heads before positions, so that attention reads each head's rows in one run."""

  key: Float[Array, "B G C H"]
  value: Float[Array, "B G C H"]


def fill(key: Float[Array, "B L G H"], value: Float[Array, "B L G H"], capacity: int) -> LayerCache:
  """A cache with room for `capacity` positions that begins with those given."""

  def place(x: jax.Array) -> jax.Array:
    return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, capacity - x.shape[1]), (0, 0)))

  return LayerCache(place(key), place(value))
