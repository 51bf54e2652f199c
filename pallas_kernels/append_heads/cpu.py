"""`append_heads` in native code: of the cache it touches the new positions only."""

import jax

from pallas_kernels.append_heads.arguments import HeadOptions, StepHeads, cpu_attributes
from pallas_kernels.cpu import cpu_call


def cpu_objection(arrays: StepHeads, *, options: HeadOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  query, cache_key, cache_value, cos = arrays.query, arrays.cache_key, arrays.cache_value, arrays.cos
  norms = (arrays.query_norm, arrays.key_norm)
  for array in (query, arrays.key, arrays.value, cache_key, cache_value, *norms):
    if array is not None and (array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16")):
      return f"queries of {query.dtype} with {array.dtype}: all float32, or all bfloat16"
  if cache_value.shape != cache_key.shape or 2 * cos.shape[1] != cache_key.shape[3]:
    return f"caches {cache_key.shape} and {cache_value.shape} under {cos.shape[1]} cosines: equal, and whole heads"
  return None


def append_heads_cpu(
  arrays: StepHeads, *, options: HeadOptions, instructions: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`append_heads` in C++ (pallas_kernels/cpu/src/append_heads.cc)."""
  query, head_dim = arrays.query, arrays.cache_key.shape[3]
  by_head = jax.ShapeDtypeStruct((query.shape[0], query.shape[1] // head_dim, head_dim), query.dtype)
  caches = [jax.ShapeDtypeStruct(cache.shape, cache.dtype) for cache in (arrays.cache_key, arrays.cache_value)]
  new_query, keys, values = cpu_call(
    "append_heads",
    (by_head, *caches),
    *(array for array in arrays[:10] if array is not None),
    *(arrays.blocks or ()),
    instructions=instructions,
    aliases={3: 1, 4: 2},
    paged=int(arrays.blocks is not None),
    **cpu_attributes(arrays, options),
  )
  return new_query, keys, values
