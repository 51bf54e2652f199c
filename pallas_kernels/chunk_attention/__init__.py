"""Attention of chunks of prompts over a paged cache, in the same step as decode rows."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.checks import require, whole_number
from pallas_kernels.chunk_attention.arguments import ChunkArrays, ChunkOptions
from pallas_kernels.chunk_attention.cpu import chunk_attention_cpu, cpu_objection
from pallas_kernels.chunk_attention.query_tiles import MOST_QUERIES, QueryTiles, most_query_tiles, query_tiles
from pallas_kernels.chunk_attention.reference import chunk_attention_reference
from pallas_kernels.chunk_attention.triton import chunk_attention_triton, objection
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.gpu import triton_backend

__all__ = [
  "CHUNK_ATTENTION", "MOST_QUERIES", "QueryTiles", "chunk_attention", "most_query_tiles", "query_tiles",
]  # fmt: skip

CHUNK_ATTENTION = Op(
  "chunk_attention",
  (
    Implementation(
      "pallas",
      chunk_attention_triton,
      "online softmax over the blocks of a tile's sequence",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
    ),
    Implementation(
      "cpu",
      chunk_attention_cpu,
      "native code: a key is read once for the queries of a tile",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", chunk_attention_reference, "tile after tile over a whole table, in plain JAX"),
  ),
)


def chunk_attention(
  query: Float[Array, "T N H"],
  key: Float[Array, "P G 32 H"],
  value: Float[Array, "P G 32 U"] | None,
  tiles: QueryTiles,
  tables: Int32[Array, "S M"],
  *,
  window: int | None = None,
  chunk: int | None = None,
  scale: float | None = None,
  sinks: Float[Array, "N"] | None = None,
  value_width: int | None = None,
  implementation: Choice = None,
) -> Float[Array, "T N _"]:
  """Softmax(query @ key.T * scale) @ value for tiles of queries, each over the positions of its sequence up to its own.

  A step has rows of several kinds: one token each of sequences that decode (`decode_attention`), and chunks of prompts.
  This op attends for the chunks, over the blocks of their sequences (`pallas_kernels.block_tables`): a key is read once
  for up to 16 queries and all heads of its group.

  Args:
    query: one query a head; head n reads keys of group n // (N / G).
    key: the pool's keys, blocks of 32 positions.
    value: the pool's values. None: the first `value_width` numbers of a key are the value, as in the absorbed form of
      multi-head latent attention (arXiv 2405.04434, section 2.1.2), whose pool [P, 32, W] is [P, 1, 32, W] here.
    tiles: which rows are queries (`query_tiles`), with their slots and positions. The pool holds these positions
      already. No row is in two tiles.
    tables: the blocks of each slot, in the order of positions; an entry outside 0 .. P - 1 is no block.
    window: positions a query sees, its own included; None is all before it.
    chunk: size of local-attention blocks: a query sees only positions of its own block. None is no bound.
    scale: factor of the scores; None is 1 / sqrt(H), and is not allowed where `value` is None.
    sinks: a logit for each head, which takes part in the softmax and adds no value; None for no sinks.
    value_width: numbers of a value, where `value` is None.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    [T, N, U] in `query`'s dtype; scores and softmax in float32. Zeros for rows of no tile, and for rows whose position
    lies in no block.

  Raises:
    ValueError: sizes that do not fit, arguments that do not go together, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  heads, groups, width = query.shape[1], key.shape[1], key.shape[3]
  require(heads % groups == 0, "query.shape[1]", heads, f"a multiple of {groups}, the groups of keys")
  require(key.shape[2] == BLOCK, "key.shape", key.shape, f"blocks of {BLOCK} positions before the last axis")
  if value is None:
    value_width = whole_number("value_width", value_width, least=1, most=width, remedy="or give values")
    require(scale is not None, "scale", scale, "a number: the width of a latent is not that of a head")
  else:
    require(value_width is None, "value_width", value_width, "None beside values")
    value_width = value.shape[3]
  tiles = QueryTiles(*(jnp.asarray(field, jnp.int32) for field in tiles))
  arrays = ChunkArrays(query, key, value, tiles, tables.astype(jnp.int32), sinks)
  scale = float(width**-0.5 if scale is None else scale)
  options = ChunkOptions(window=window, chunk=chunk, scale=scale, value_width=value_width)
  return CHUNK_ATTENTION(implementation, arrays, options=options)
