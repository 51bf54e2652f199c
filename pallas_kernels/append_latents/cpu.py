"""`append_latents` in native code: of the cache it touches the new positions only."""

import jax

from pallas_kernels.append_latents.arguments import StepLatents
from pallas_kernels.cpu import cpu_call


def cpu_objection(arrays: StepLatents) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  dtype = arrays.cache.dtype
  return None if dtype.name in ("float32", "bfloat16") else f"a cache of {dtype}: float32 or bfloat16"


def append_latents_cpu(arrays: StepLatents) -> jax.Array:
  """`append_latents` in C++ (pallas_kernels/cpu/src/append_latents.cc)."""
  latent, cache, positions, blocks = arrays
  (written,) = cpu_call(
    "append_latents",
    (jax.ShapeDtypeStruct(cache.shape, cache.dtype),),
    *(latent, cache, positions, *(blocks or ())),
    aliases={1: 0},
    paged=int(blocks is not None),
  )
  return written
