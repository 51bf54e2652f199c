"""`row_matmul` in native code: each weight is read once, in its stored layout; norm and additions are fused in."""

import jax
import jax.numpy as jnp

from pallas_kernels.cpu import cpu_call
from pallas_kernels.cpu.forms import form_objection
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions
from pallas_kernels.weights.base import held_as

_DTYPES = ("float32", "bfloat16")


def cpu_objection(arrays: RowArrays, *, options: RowOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  x, plain = arrays.x, [weight for weight in arrays.weights if held_as(weight) is None]
  kinds = {held_as(weight) or "plain arrays" for weight in arrays.weights}
  if len(kinds) > 1:
    return f"weights of several forms, {' and '.join(sorted(kinds))}: one form for all"
  if (objection := next(filter(None, map(form_objection, arrays.weights)), None)) is not None:
    return objection
  for array in (x, *plain, arrays.norm_scale, *arrays.biases, arrays.residual):
    if array is not None and (array.dtype != x.dtype or x.dtype.name not in _DTYPES):
      return f"rows of {x.dtype} with {array.dtype}: all float32, or all bfloat16"
  if options.dtype not in _DTYPES:
    return f"results in {options.dtype}: float32 or bfloat16"
  return None


def row_matmul_cpu(arrays: RowArrays, *, options: RowOptions, instructions: str | None = None) -> tuple[jax.Array, ...]:
  """`row_matmul` in C++ (pallas_kernels/cpu/src/row_matmul.cc)."""
  x, biases = arrays.x, arrays.biases
  given = [x, *(array for array in (arrays.norm_scale, arrays.residual, arrays.used) if array is not None)]
  for weight, bias in zip(arrays.weights, biases, strict=True):
    given += jax.tree.leaves((weight, bias))
  done = cpu_call(
    "row_matmul",
    [jax.ShapeDtypeStruct((x.shape[0], weight.shape[0]), jnp.dtype(options.dtype)) for weight in arrays.weights],
    *given,
    instructions=instructions,
    norm_eps=options.norm_eps,
    norm=int(arrays.norm_scale is not None),
    residual=int(arrays.residual is not None),
    used=int(arrays.used is not None),
    biases=sum(1 << place for place, bias in enumerate(biases) if bias is not None),
  )
  return tuple(done)
