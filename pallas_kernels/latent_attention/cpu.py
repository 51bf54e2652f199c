"""`latent_attention` in native code: a row reads only the positions that it sees, as the cache holds them."""

import jax

from pallas_kernels.cpu import cpu_call
from pallas_kernels.latent_attention.arguments import LatentArrays, LatentOptions


def cpu_objection(arrays: LatentArrays, *, options: LatentOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  query, cache = arrays.query, arrays.cache
  if cache.dtype != query.dtype or cache.dtype.name not in ("float32", "bfloat16"):
    return f"queries of {query.dtype} with a cache of {cache.dtype}: both float32, or both bfloat16"
  return None


def latent_attention_cpu(arrays: LatentArrays, *, options: LatentOptions, instructions: str | None = None) -> jax.Array:
  """`latent_attention` in C++ (pallas_kernels/cpu/src/decode_attention.cc)."""
  query, cache, positions, blocks = arrays
  (attended,) = cpu_call(
    "latent_attention",
    (jax.ShapeDtypeStruct((*query.shape[:2], options.value_width), query.dtype),),
    *(query, cache, positions, *(blocks or ())),
    instructions=instructions,
    scale=options.scale,
    paged=int(blocks is not None),
  )
  return attended
