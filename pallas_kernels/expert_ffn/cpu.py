"""Live experts natively on the CPU: their weights stream through the processor once, as they lie in memory."""

import math

import jax
import jax.numpy as jnp

from pallas_kernels.activations import SWIGLU, Activation, ClampedSwiGLU
from pallas_kernels.cpu import cpu_call, unavailable
from pallas_kernels.weights.int8 import Int8Weight, Weight

_HELD_AS = {"float32": ("float32", "int8"), "bfloat16": ("bfloat16", "uint16", "int8")}


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
  held = _HELD_AS.get(x.dtype.name, ())
  for bias in (gate_up_bias, down_bias):
    if bias is not None and bias.dtype != x.dtype:
      return f"rows of {x.dtype} and biases of {bias.dtype}: one dtype for both"
  if isinstance(gate_up, Int8Weight) != isinstance(down, Int8Weight):
    return f"weights of {gate_up.dtype} and of {down.dtype}: both int8, or neither"
  for weight in (gate_up, down):
    if weight.dtype.name not in held:
      return f"rows of {x.dtype} and weights of {weight.dtype}: both float32, or both bfloat16 (or its bits), or int8"
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
