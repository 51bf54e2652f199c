"""Norms, rotation and the cache's new position natively on the CPU: nothing else of the cache is touched."""

import jax

from pallas_kernels.cpu import cpu_call, unavailable


def cpu_objection(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cache_key: jax.Array,
  cache_value: jax.Array,
  positions: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  for array in (query, key, value, cache_key, cache_value, query_norm, key_norm):
    if array is not None and (array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16")):
      return f"queries of {query.dtype} with {array.dtype}: all float32, or all bfloat16"
  if cache_value.shape != cache_key.shape or 2 * cos.shape[1] != cache_key.shape[3]:
    return f"caches {cache_key.shape} and {cache_value.shape} under {cos.shape[1]} cosines: equal, and whole heads"
  return unavailable()


def append_heads_cpu(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cache_key: jax.Array,
  cache_value: jax.Array,
  positions: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
  instructions: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`append_heads` in C++ (pallas_kernels/cpu/src/append_heads.cc)."""
  head_dim = cache_key.shape[3]
  turned = jax.ShapeDtypeStruct((query.shape[0], query.shape[1] // head_dim, head_dim), query.dtype)
  caches = [jax.ShapeDtypeStruct(cache.shape, cache.dtype) for cache in (cache_key, cache_value)]
  norms = [norm for norm in (query_norm, key_norm) if norm is not None]
  new_query, keys, values = cpu_call(
    "append_heads",
    (turned, *caches),
    *(query, key, value, cache_key, cache_value, positions, cos, sin, *norms),
    instructions=instructions,
    aliases={3: 1, 4: 2},
    norm_eps=float(norm_eps),
    clip=float(clip or 0.0),
    query_norm=int(query_norm is not None),
    key_norm=int(key_norm is not None),
  )
  return new_query, keys, values
