"""Weights that stream through the processor once, as they lie in memory, with the norm before and the sums after."""

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.weights.base import Weight, held_as

_DTYPES = ("float32", "bfloat16")


def cpu_objection(
  x: jax.Array,
  weights: tuple[Weight, ...],
  norm_scale: jax.Array | None,
  biases: tuple[jax.Array | None, ...],
  residual: jax.Array | None,
  *,
  norm_eps: float,
  dtype: str,
) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  kinds = {held_as(weight) for weight in weights}
  if not kinds <= {None, "int8"}:
    return f"weights held as {', '.join(sorted(map(str, kinds)))}: it takes plain arrays, or int8"
  if len(kinds) > 1:
    return "int8 weights beside others: all of them, or none"
  floating = () if "int8" in kinds else weights
  for array in (x, *floating, norm_scale, *biases, residual):
    if array is not None and (array.dtype != x.dtype or x.dtype.name not in _DTYPES):
      return f"rows of {x.dtype} with {array.dtype}: all float32, or all bfloat16"
  if dtype not in _DTYPES:
    return f"results in {dtype}: float32 or bfloat16"
  return unavailable()


def row_matmul_cpu(
  x: jax.Array,
  weights: tuple[Weight, ...],
  norm_scale: jax.Array | None,
  biases: tuple[jax.Array | None, ...],
  residual: jax.Array | None,
  *,
  norm_eps: float,
  dtype: str,
  instructions: str | None = None,
) -> tuple[jax.Array, ...]:
  """`row_matmul` in C++ (pallas_kernels/cpu/src/row_matmul.cc)."""
  arrays = [x, *(array for array in (norm_scale, residual) if array is not None)]
  for weight, bias in zip(weights, biases, strict=True):
    arrays += jax.tree.leaves((weight, bias))
  results = [jax.ShapeDtypeStruct((x.shape[0], weight.shape[0]), jnp.dtype(dtype)) for weight in weights]
  done = cpu_call(
    "row_matmul",
    results,
    *arrays,
    instructions=instructions,
    norm_eps=float(norm_eps),
    norm=int(norm_scale is not None),
    residual=int(residual is not None),
    biases=sum(1 << place for place, bias in enumerate(biases) if bias is not None),
  )
  return tuple(done)
