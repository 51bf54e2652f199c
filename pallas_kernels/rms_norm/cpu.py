"""`rms_norm` in one native call: XLA's CPU code runs a loop each for conversion, sum, root and product."""

import jax

from pallas_kernels.cpu import cpu_call


def cpu_objection(x: jax.Array, scale: jax.Array, *, eps: float) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  if x.dtype != scale.dtype or x.dtype.name not in ("float32", "bfloat16"):
    return f"rows of {x.dtype} and a scale of {scale.dtype}: both float32, or both bfloat16"
  return None


def rms_norm_cpu(x: jax.Array, scale: jax.Array, *, eps: float, instructions: str | None = None) -> jax.Array:
  """`rms_norm` in C++ (pallas_kernels/cpu/src/rms_norm.cc)."""
  (y,) = cpu_call(
    "rms_norm", (jax.ShapeDtypeStruct(x.shape, x.dtype),), x, scale, instructions=instructions, eps=float(eps)
  )
  return y
