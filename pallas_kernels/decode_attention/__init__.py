"""Attention of a decode step: one query a row over what the row has seen."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.block_tables import BlockTables, HeadsCache, check_pool
from pallas_kernels.cpu import unavailable
from pallas_kernels.decode_attention.arguments import AttentionArrays, AttentionOptions
from pallas_kernels.decode_attention.cpu import cpu_objection, decode_attention_cpu
from pallas_kernels.decode_attention.reference import decode_attention_reference
from pallas_kernels.decode_attention.triton import decode_attention_triton, objection
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.gpu import triton_backend

__all__ = ["DECODE_ATTENTION", "decode_attention"]

DECODE_ATTENTION = Op(
  "decode_attention",
  (
    Implementation(
      "pallas",
      decode_attention_triton,
      "online softmax, split over the sequence, two kernels",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
    ),
    Implementation(
      "cpu",
      decode_attention_cpu,
      "native code over the positions that a row sees",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", decode_attention_reference, "scores of the whole cache, in plain JAX"),
  ),
)


def decode_attention(
  query: Float[Array, "B N H"],
  key: HeadsCache,
  value: HeadsCache,
  positions: Int32[Array, "B"],
  *,
  window: int | None = None,
  chunk: int | None = None,
  scale: float | None = None,
  sinks: Float[Array, "N"] | None = None,
  blocks: BlockTables | None = None,
  implementation: Choice = None,
) -> Float[Array, "B N H"]:
  """Softmax(query @ key.T * scale) @ value over the positions of a row up to its own.

  Only the positions that a row sees are read. A long sequence is split into parts, so that few rows keep a whole GPU
  busy (flash-decoding, after arXiv 2205.14135).

  Args:
    query: one query a head; head n reads keys of group n // (N / G).
    key: the cache's keys: C positions of each row, or with `blocks` a pool of blocks.
    value: the cache's values.
    positions: of each row's query, in tokens; the cache holds that position already.
    window: positions a query sees, its own included; None is all before it.
    chunk: size of local-attention blocks: a query sees only positions of its own block. None is no bound.
    scale: factor of the scores; None is 1 / sqrt(H).
    sinks: a logit for each head, which takes part in the softmax and adds no value; None for no sinks.
    blocks: where rows find their positions in the pool, and which rows are absent; None for a dense cache.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    [B, N, H] in `query`'s dtype, zeros for an absent row; scores and softmax in float32.

  Raises:
    ValueError: N is no multiple of G, a pool whose blocks are not of 32 positions, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  if query.shape[1] % key.shape[1]:
    raise ValueError(f"{query.shape[1]} query heads are no multiple of {key.shape[1]} groups of keys")
  positions = positions.astype(jnp.int32)
  blocks = check_pool("key", key, positions, blocks)
  arrays = AttentionArrays(query, key, value, positions, sinks, blocks)
  options = AttentionOptions(window=window, chunk=chunk, scale=float(scale or query.shape[2] ** -0.5))
  return DECODE_ATTENTION(implementation, arrays, options=options)
