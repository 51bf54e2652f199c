"""`expert_ffn` in native code: the weights of live experts are read once, in their stored layout."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels.activations import ClampedSwiGLU
from pallas_kernels.cpu import cpu_call
from pallas_kernels.cpu.forms import form_objection
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.weights.base import form_of, held_as

_DTYPES = ("float32", "bfloat16")


def cpu_objection(arrays: ExpertArrays, *, options: ExpertOptions) -> str | None:
  """Says why the native code cannot take these arguments, or None."""
  x, weights = arrays.x, (arrays.gate_up, arrays.down)
  for bias in (arrays.gate_up_bias, arrays.down_bias):
    if bias is not None and bias.dtype != x.dtype:
      return f"rows of {x.dtype} and biases of {bias.dtype}: one dtype for both"
  if held_as(arrays.gate_up) != held_as(arrays.down):
    gate_up, down = (held_as(weight) or weight.dtype.name for weight in weights)
    return f"weights of {gate_up} and of {down}: one form for both"
  if x.dtype.name not in _DTYPES:
    return f"rows of {x.dtype}: float32 or bfloat16"
  for weight in weights:
    if form_of(weight) is None and weight.dtype != x.dtype:
      return f"rows of {x.dtype} and weights of {weight.dtype}: one dtype for both, or quantised weights"
    if (objection := form_objection(weight)) is not None:
      return objection
  return None


def expert_ffn_cpu(arrays: ExpertArrays, *, options: ExpertOptions, instructions: str | None = None) -> jax.Array:
  """`expert_ffn` in C++ (pallas_kernels/cpu/src/expert_ffn.cc), which groups rows itself."""
  x, activation = arrays.x, options.activation
  biases = [bias for bias in (arrays.gate_up_bias, arrays.down_bias) if bias is not None]
  weights = jax.tree.leaves((arrays.gate_up, arrays.down))
  clamped = isinstance(activation, ClampedSwiGLU)
  (y,) = cpu_call(
    "expert_ffn",
    (jax.ShapeDtypeStruct(x.shape, x.dtype),),
    *(x, arrays.ids, arrays.weights.astype(jnp.float32), arrays.valid, *weights, *biases),
    instructions=instructions,
    gate_up_bias=int(arrays.gate_up_bias is not None),
    down_bias=int(arrays.down_bias is not None),
    alpha=float(activation.alpha) if clamped else 1.0,
    expert_width=arrays.down.shape[2],
    limit=float(activation.limit) if clamped else math.inf,
    shift=1.0 if clamped else 0.0,
  )
  return y
