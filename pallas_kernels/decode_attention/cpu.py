"""Attention natively on the CPU: a row reads the positions that it sees, as the cache holds them, and no others."""

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call, unavailable


def cpu_objection(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  sinks: jax.Array | None,
  *,
  window: int | None,
  chunk: int | None,
  scale: float,
) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  for array in (key, value):
    if array.dtype != query.dtype or array.dtype.name not in ("float32", "bfloat16"):
      return f"queries of {query.dtype} with a cache of {array.dtype}: both float32, or both bfloat16"
  if key.shape != value.shape:
    return f"keys {key.shape} and values {value.shape}: of one shape"
  return unavailable()


def decode_attention_cpu(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  positions: jax.Array,
  sinks: jax.Array | None,
  *,
  window: int | None,
  chunk: int | None,
  scale: float,
  instructions: str | None = None,
) -> jax.Array:
  """`decode_attention` in C++ (pallas_kernels/cpu/src/decode_attention.cc)."""
  extra = () if sinks is None else (sinks.astype(jnp.float32),)
  (mixed,) = cpu_call(
    "decode_attention",
    (jax.ShapeDtypeStruct(query.shape, query.dtype),),
    *(query, key, value, positions, *extra),
    instructions=instructions,
    window=int(window or 0),
    chunk=int(chunk or 0),
    scale=float(scale),
    sinks=len(extra),
  )
  return mixed
