"""`decode_attention` in native code: a row reads only the positions that it sees, as the cache holds them."""

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call
from pallas_kernels.decode_attention.arguments import AttentionArrays, AttentionOptions


def cpu_objection(arrays: AttentionArrays, *, options: AttentionOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  query, key, value = arrays.query, arrays.key, arrays.value
  for array in (key, value):
    if array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16"):
      return f"queries of {query.dtype} with a cache of {array.dtype}: both float32, or both bfloat16"
  if key.shape != value.shape:
    return f"keys {key.shape} and values {value.shape}: of one shape"
  return None


def decode_attention_cpu(
  arrays: AttentionArrays, *, options: AttentionOptions, instructions: str | None = None
) -> jax.Array:
  """`decode_attention` in C++ (pallas_kernels/cpu/src/decode_attention.cc)."""
  query, key, value, positions, sinks, blocks = arrays
  extra = () if sinks is None else (sinks.astype(jnp.float32),)
  (attended,) = cpu_call(
    "decode_attention",
    (jax.ShapeDtypeStruct(query.shape, query.dtype),),
    *(query, key, value, positions, *extra, *(blocks or ())),
    instructions=instructions,
    window=int(options.window or 0),
    chunk=int(options.chunk or 0),
    scale=options.scale,
    sinks=len(extra),
    paged=int(blocks is not None),
  )
  return attended
