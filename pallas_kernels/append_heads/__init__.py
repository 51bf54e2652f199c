"""What a decode step does between its projections and attention, with the KV cache updated in place."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.append_heads.cpu import append_heads_cpu, cpu_objection
from pallas_kernels.append_heads.reference import append_heads_reference
from pallas_kernels.append_heads.triton import append_heads_triton, objection
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op

__all__ = ["APPEND_HEADS", "append_heads"]

APPEND_HEADS = Op(
  "append_heads",
  (
    Implementation("pallas", append_heads_triton, "norm, rotation and cache update in one kernel", (GPU,), objection),
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
  cache_key: Float[Array, "B G C H"],
  cache_value: Float[Array, "B G C H"],
  positions: Int32[Array, "B"],
  cos: Float32[Array, "B half"],
  sin: Float32[Array, "B half"],
  *,
  query_norm: Float[Array, "_"] | None = None,
  key_norm: Float[Array, "_"] | None = None,
  norm_eps: float = 0.0,
  clip: float | None = None,
  implementation: Choice = None,
) -> tuple[Float[Array, "B N H"], Float[Array, "B G C H"], Float[Array, "B G C H"]]:
  """Norms, clips and turns a step's queries and keys, and writes keys and values into the cache.

  A norm over a whole projection comes before the clip, a norm over each head after it.

  Args:
    query: projected queries, heads side by side.
    key: projected keys.
    value: projected values; they are clipped, and neither normed nor turned.
    cache_key: keys so far; its memory is taken over where the caller gives it away.
    cache_value: values so far, likewise.
    positions: where each row writes, in tokens; a position outside the cache is not written.
    cos: what rotation multiplies pairs by, real parts: a cosine, times a magnitude where a model has one.
    sin: imaginary parts.
    query_norm: scale of an RMS norm of queries: [H] for each head, [N * H] over the projection, None for none.
    key_norm: likewise of keys.
    norm_eps: added to the mean square.
    clip: bound on magnitudes, or None.
    implementation: "pallas", "cpu", "reference", or None for the best on the platform.

  Returns:
    Queries by head, and both caches.

  Raises:
    ValueError: widths that are no multiple of H, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these sizes.
  """
  head_dim = cache_key.shape[3]
  if query.shape[1] % head_dim or key.shape[1] != cache_key.shape[1] * head_dim:
    raise ValueError(f"query {query.shape} and key {key.shape} do not fit a cache {cache_key.shape}, [B, G, C, H]")
  arrays = (query, key, value, cache_key, cache_value, positions.astype(jnp.int32))
  return APPEND_HEADS(implementation, *arrays, cos, sin, query_norm, key_norm, norm_eps=norm_eps, clip=clip)
