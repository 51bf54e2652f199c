"""Random weights on the device, in seconds: for measurements that need sizes and not sense."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lynx_jax.models.parameters import assemble, kept_in_float32, parameter_shapes
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec


def random_params(spec: DecoderSpec, dtype: Any = jnp.bfloat16, seed: int = 0) -> Params:
  """What loading a checkpoint of `dtype` gives: normal weights of deviation 0.02, scales of one, no tokenizer.

  A parameter is drawn at a time, by one compiled program for each shape, and nothing as large as it is held beside it.
  """
  exact = kept_in_float32(spec)
  arrays = {}
  for number, (name, shape) in enumerate(parameter_shapes(spec).items()):
    kind = jnp.dtype(jnp.float32 if name in exact else dtype)
    if name.endswith(".scale"):
      arrays[name] = jnp.ones(shape, kind)
      continue
    # On the CPU, loading holds bfloat16 experts as their bits.
    bits = name.endswith((".ffn.gate_up", ".ffn.down")) and len(shape) == 3 and jax.default_backend() == "cpu"
    arrays[name] = normal(shape, kind, seed + number, scale=0.02, bits=bits and kind == jnp.bfloat16)
  return Params(decoder=assemble(spec, arrays))


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "bits"))
def normal(
  shape: tuple[int, ...], dtype: Any, seed: int | jax.Array, *, scale: float | jax.Array = 1.0, bits: bool = False
) -> jax.Array:
  """Normal numbers of deviation `scale`, drawn in `dtype`; `bits` gives bfloat16 as uint16."""
  drawn = jax.random.normal(jax.random.key(seed), shape, dtype) * jnp.asarray(scale).astype(dtype)
  return jax.lax.bitcast_convert_type(drawn, jnp.uint16) if bits else drawn
