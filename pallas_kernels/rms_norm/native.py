"""Rows in one native call: in XLA's CPU code a conversion, a sum, a root and a product are loops of their own."""

import jax

from pallas_kernels.native import native_call, unavailable


def native_objection(x: jax.Array, scale: jax.Array, *, eps: float) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  if x.dtype != scale.dtype or x.dtype.name not in ("float32", "bfloat16"):
    return f"rows of {x.dtype} and a scale of {scale.dtype}: both float32, or both bfloat16"
  return unavailable()


def rms_norm_native(x: jax.Array, scale: jax.Array, *, eps: float, instructions: str | None = None) -> jax.Array:
  """`rms_norm` in C++ (pallas_kernels/native/rms_norm.cc)."""
  (y,) = native_call(
    "rms_norm", (jax.ShapeDtypeStruct(x.shape, x.dtype),), x, scale, instructions=instructions, eps=float(eps)
  )
  return y
