"""What the implementations of `append_latents` are given."""

from typing import NamedTuple

import jax

from pallas_kernels.block_tables import BlockTables


class StepLatents(NamedTuple):
  """The arrays of `append_latents`.

  Attributes:
    latent: a latent and a rotary key a row [B, W].
    cache: those of earlier positions [B, C, W], or a pool of blocks [P, 32, W].
    positions: where each row writes, int32 [B].
    blocks: where rows find their positions in a pool, or None for a dense cache.
  """

  latent: jax.Array
  cache: jax.Array
  positions: jax.Array
  blocks: BlockTables | None
