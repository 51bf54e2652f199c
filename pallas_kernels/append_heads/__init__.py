"""What a decode step does between its projections and attention: norms, rotation, and the KV cache updated in place."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.append_heads.arguments import HeadOptions, NormedOver, StepHeads, check_norm
from pallas_kernels.append_heads.cpu import append_heads_cpu, cpu_objection
from pallas_kernels.append_heads.reference import append_heads_reference
from pallas_kernels.append_heads.triton import append_heads_triton, objection
from pallas_kernels.block_tables import BlockTables, HeadsCache, check_pool
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.gpu import triton_backend

__all__ = ["APPEND_HEADS", "append_heads"]

APPEND_HEADS = Op(
  "append_heads",
  (
    Implementation(
      "pallas",
      append_heads_triton,
      "norm, rotation and cache update in one kernel",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
    ),
    Implementation(
      "cpu",
      append_heads_cpu,
      "native code that writes into the cache",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      bound=True,
    ),
    Implementation("reference", append_heads_reference, "plain JAX; on CPUs a select over narrow caches"),
  ),
)


def append_heads(
  query: Float[Array, "B NH"],
  key: Float[Array, "B GH"],
  value: Float[Array, "B GH"],
  cache_key: HeadsCache,
  cache_value: HeadsCache,
  positions: Int32[Array, "B"],
  cos: Float32[Array, "B half"],
  sin: Float32[Array, "B half"],
  *,
  query_norm: Float[Array, "_"] | None = None,
  key_norm: Float[Array, "_"] | None = None,
  normed_over: NormedOver = "head",
  norm_eps: float = 0.0,
  clip: float | None = None,
  blocks: BlockTables | None = None,
  implementation: Choice = None,
) -> tuple[Float[Array, "B N H"], HeadsCache, HeadsCache]:
  """Norms, clips and rotates a step's queries and keys, and writes keys and values into the cache.

  A norm over a whole projection comes before the clip, a norm over each head after it. With `blocks` the caches are
  pools, and several rows may belong to one sequence. No two rows may write one place.

  Args:
    query: projected queries, heads side by side.
    key: projected keys.
    value: projected values; they are clipped, but neither normed nor rotated.
    cache_key: keys so far: C positions of each row, or a pool of blocks. Its memory is reused for the result where the
      caller donates it.
    cache_value: values so far, likewise.
    positions: where each row writes, in tokens; a position outside the cache is not written, nor is an absent row.
    cos: real parts of the complex numbers that rotate pairs: cosines, times a magnitude if the model has one.
    sin: imaginary parts.
    query_norm: scale of an RMS norm of queries: [H] over each head, [N * H] over the projection; None for no norm.
    key_norm: scale of an RMS norm of keys: [H] or [G * H]; None for no norm.
    normed_over: what one mean square is taken over, "head" or "projection".
    norm_eps: added to the mean square.
    clip: bound on magnitudes; None for no bound.
    blocks: where rows find their positions in the pool, and which rows are absent; None for a dense cache.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    Queries by head, and both caches.

  Raises:
    ValueError: widths that are no multiple of H, a scale of another length than `normed_over` says, a pool whose
      blocks are not of 32 positions, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  head_dim = cache_key.shape[3]
  if query.shape[1] % head_dim or key.shape[1] != cache_key.shape[1] * head_dim:
    raise ValueError(f"query {query.shape} and key {key.shape} do not fit a cache {cache_key.shape}, [B, G, C, H]")
  check_norm("query_norm", query_norm, query.shape[1], head_dim, normed_over)
  check_norm("key_norm", key_norm, key.shape[1], head_dim, normed_over)
  positions = positions.astype(jnp.int32)
  blocks = check_pool("cache_key", cache_key, positions, blocks)
  arrays = StepHeads(query, key, value, cache_key, cache_value, positions, cos, sin, query_norm, key_norm, blocks)
  options = HeadOptions(normed_over=normed_over, norm_eps=float(norm_eps), clip=clip)
  return APPEND_HEADS(implementation, arrays, options=options)
