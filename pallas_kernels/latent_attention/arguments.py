"""What the implementations of `latent_attention` are given."""

import dataclasses
from typing import NamedTuple

import jax

from pallas_kernels.block_tables import BlockTables


class LatentArrays(NamedTuple):
  """The arrays of `latent_attention`.

  Attributes:
    query: one query a head [B, N, W].
    cache: a latent and a rotary key a position [B, C, W], or a pool of blocks [P, 32, W].
    positions: of each row's query, int32 [B].
    blocks: where rows find their positions in a pool, or None for a dense cache.
  """

  query: jax.Array
  cache: jax.Array
  positions: jax.Array
  blocks: BlockTables | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LatentOptions:
  """The static options of `latent_attention`.

  Attributes:
    value_width: how many numbers of a cached row are the latent.
    scale: factor of the scores.
  """

  value_width: int
  scale: float
