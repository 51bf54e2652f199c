"""Rows in one native call: in XLA's CPU code a conversion, a sum, a root and a product are loops of their own."""

import jax

from pallas_kernels.cpu import cpu_call, unavailable


def cpu_objection(x: jax.Array, scale: jax.Array, *, eps: float) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  if x.dtype != scale.dtype or x.dtype.name not in ("float32", "bfloat16"):
    return f"rows of {x.dtype} and a scale of {scale.dtype}: both float32, or both bfloat16"
  return unavailable()


def rms_norm_cpu(x: jax.Array, scale: jax.Array, *, eps: float, instructions: str | None = None) -> jax.Array:
  """`rms_norm` in C++ (pallas_kernels/cpu/src/rms_norm.cc)."""
  (y,) = cpu_call(
    "rms_norm", (jax.ShapeDtypeStruct(x.shape, x.dtype),), x, scale, instructions=instructions, eps=float(eps)
  )
  return y
