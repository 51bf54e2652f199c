"""`chunk_attention` in native code: queries are the lanes of vectors, and a key is read once for a tile of them."""

import jax
import jax.numpy as jnp

from pallas_kernels.chunk_attention.arguments import ChunkArrays, ChunkOptions
from pallas_kernels.cpu import cpu_call


def cpu_objection(arrays: ChunkArrays, *, options: ChunkOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  dtype = arrays.query.dtype
  for array in (arrays.key, arrays.value):
    if array is not None and (array.dtype != dtype or array.dtype.name not in ("float32", "bfloat16")):
      return f"queries of {dtype} with a cache of {array.dtype}: both float32, or both bfloat16"
  return None


def chunk_attention_cpu(arrays: ChunkArrays, *, options: ChunkOptions, instructions: str | None = None) -> jax.Array:
  """`chunk_attention` in C++ (pallas_kernels/cpu/src/chunk_attention.cc)."""
  query, key, value, tiles, tables, sinks = arrays
  extra = [] if value is None else [value]
  extra += [] if sinks is None else [sinks.astype(jnp.float32)]
  (attended,) = cpu_call(
    "chunk_attention",
    (jax.ShapeDtypeStruct((*query.shape[:2], options.value_width), query.dtype),),
    *(query, key, *tiles, tables, *extra),
    instructions=instructions,
    window=int(options.window or 0),
    chunk=int(options.chunk or 0),
    scale=options.scale,
    value=int(value is not None),
    sinks=int(sinks is not None),
  )
  return attended
