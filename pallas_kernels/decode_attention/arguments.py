"""What the implementations of `decode_attention` are given."""

import dataclasses
from typing import NamedTuple

import jax

from pallas_kernels.block_tables import BlockTables


class AttentionArrays(NamedTuple):
  """The arrays of `decode_attention`.

  Attributes:
    query: one query a head [B, N, H].
    key: the cache's keys [B, G, C, H], or a pool of blocks [P, G, 32, H].
    value: the cache's values, likewise.
    positions: of each row's query, int32 [B].
    sinks: a logit a head [N], or None.
    blocks: where rows find their positions in a pool, or None for a dense cache.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array
  positions: jax.Array
  sinks: jax.Array | None
  blocks: BlockTables | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AttentionOptions:
  """The static options of `decode_attention`.

  Attributes:
    window: positions that a query sees, its own included; None is all before it.
    chunk: size of local-attention blocks: a query sees only positions of its own block; None is no bound.
    scale: factor of the scores.
  """

  window: int | None
  chunk: int | None
  scale: float
