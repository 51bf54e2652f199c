"""What the implementations of `chunk_attention` are given."""

import dataclasses
from typing import NamedTuple

import jax

from pallas_kernels.chunk_attention.query_tiles import QueryTiles


class ChunkArrays(NamedTuple):
  """The arrays of `chunk_attention`.

  Attributes:
    query: one query a head [T, N, H].
    key: the pool's keys [P, G, 32, H].
    value: the pool's values [P, G, 32, U], or None where the keys begin with them.
    tiles: which rows are queries, int32 [Q] each.
    tables: the blocks of each slot, int32 [S, M].
    sinks: a logit a head [N], or None.
  """

  query: jax.Array
  key: jax.Array
  value: jax.Array | None
  tiles: QueryTiles
  tables: jax.Array
  sinks: jax.Array | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOptions:
  """The static options of `chunk_attention`.

  Attributes:
    window: positions that a query sees, its own included; None is all before it.
    chunk: size of local-attention blocks: a query sees only positions of its own block; None is no bound.
    scale: factor of the scores.
    value_width: numbers of a value (U).
  """

  window: int | None
  chunk: int | None
  scale: float
  value_width: int
