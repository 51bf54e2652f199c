"""Live experts natively on the CPU: their weights stream through the processor once, as they lie in memory."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels.activations import SWIGLU, Activation, ClampedSwiGLU
from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.weights.base import Weight, held_as

_DTYPES = ("float32", "bfloat16")
_KINDS = (None, "bfloat16 bits", "int8")


def cpu_objection(
  x: jax.Array,
  weights: jax.Array,
  gate_up: Weight,
  down: Weight,
  ids: jax.Array,
  valid: jax.Array,
  tiles: object,
  gate_up_bias: jax.Array | None,
  down_bias: jax.Array | None,
  *,
  activation: Activation,
) -> str | None:
  """Why the native code cannot take these arguments, or None."""
  for bias in (gate_up_bias, down_bias):
    if bias is not None and bias.dtype != x.dtype:
      return f"rows of {x.dtype} and biases of {bias.dtype}: one dtype for both"
  if held_as(gate_up) != held_as(down):
    return f"weights held as {held_as(gate_up)} and as {held_as(down)}: one form for both"
  if held_as(gate_up) not in _KINDS:
    return f"weights held as {held_as(gate_up)}: it takes plain arrays, bfloat16 bits and int8"
  if x.dtype.name not in _DTYPES:
    return f"rows of {x.dtype}: float32 or bfloat16"
  for weight in (gate_up, down):
    if held_as(weight) != "int8" and weight.dtype != x.dtype:
      return f"rows of {x.dtype} and weights of {weight.dtype}: one dtype for both, or int8 weights"
  return unavailable()


def expert_ffn_cpu(
  x: jax.Array,
  ids: jax.Array,
  weights: jax.Array,
  gate_up: Weight,
  down: Weight,
  valid: jax.Array,
  gate_up_bias: jax.Array | None = None,
  down_bias: jax.Array | None = None,
  *,
  activation: Activation = SWIGLU,
  instructions: str | None = None,
) -> jax.Array:
  """`expert_ffn` in C++ (pallas_kernels/cpu/src/expert_ffn.cc)."""
  biases = [bias for bias in (gate_up_bias, down_bias) if bias is not None]
  clamped = isinstance(activation, ClampedSwiGLU)
  (y,) = cpu_call(
    "expert_ffn",
    (jax.ShapeDtypeStruct(x.shape, x.dtype),),
    *(x, ids, weights.astype(jnp.float32), valid, *jax.tree.leaves((gate_up, down)), *biases),
    instructions=instructions,
    gate_up_bias=int(gate_up_bias is not None),
    down_bias=int(down_bias is not None),
    alpha=float(activation.alpha) if clamped else 1.0,
    limit=float(activation.limit) if clamped else math.inf,
    shift=1.0 if clamped else 0.0,
  )
  return y
