"""Prompts' heads in one native call: XLA's CPU code takes cosines anew for every number that it turns."""

import jax

from pallas_kernels.cpu import cpu_call, unavailable


def cpu_objection(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  for array in (query, key, value, query_norm, key_norm):
    if array is not None and (array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16")):
      return f"queries of {query.dtype} with {array.dtype}: all float32, or all bfloat16"
  if key.shape != value.shape:
    return f"keys {key.shape} and values {value.shape}: equal widths"
  return unavailable()


def prompt_heads_cpu(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  cos: jax.Array,
  sin: jax.Array,
  query_norm: jax.Array | None,
  key_norm: jax.Array | None,
  *,
  norm_eps: float,
  clip: float | None,
  instructions: str | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """`prompt_heads` in C++ (pallas_kernels/cpu/src/append_heads.cc)."""
  rows, length, half = cos.shape
  results = [
    jax.ShapeDtypeStruct((rows, x.shape[1] // (2 * half), length, 2 * half), x.dtype) for x in (query, key, value)
  ]
  norms = [norm for norm in (query_norm, key_norm) if norm is not None]
  new_query, new_key, new_value = cpu_call(
    "prompt_heads",
    results,
    *(query, key, value, cos, sin, *norms),
    instructions=instructions,
    norm_eps=float(norm_eps),
    clip=float(clip or 0.0),
    query_norm=int(query_norm is not None),
    key_norm=int(key_norm is not None),
  )
  return new_query, new_key, new_value
