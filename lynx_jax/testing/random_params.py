"""Creates random weights on the device in seconds, for measurements that depend on sizes only."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from lynx_jax.models.parameters import assemble, declarations
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Role, dtype_of, held_as_bits
from pallas_kernels import BFloat16Bits


def random_params(spec: DecoderSpec, dtype: Any = jnp.bfloat16, seed: int = 0) -> Params:
  """What loading a checkpoint of `dtype` gives: normal weights of deviation 0.02, scales of one, no tokenizer.

  Parameters are drawn one after the other, by one compiled program for each shape, without a second copy of any.
  """
  arrays = {}
  for number, (path, declared) in enumerate(declarations(spec).items()):
    kind = dtype_of(declared.role, dtype)
    if declared.role is Role.NORM:
      arrays[path] = jnp.ones(declared.shape, kind)
    elif held_as_bits(declared.role, kind):
      arrays[path] = BFloat16Bits(normal(declared.shape, kind, seed + number, scale=0.02, bits=True))
    else:
      arrays[path] = normal(declared.shape, kind, seed + number, scale=0.02)
  return Params(decoder=assemble(spec, arrays))


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "bits"))
def normal(
  shape: tuple[int, ...], dtype: Any, seed: int | jax.Array, *, scale: float | jax.Array = 1.0, bits: bool = False
) -> jax.Array:
  """Normal numbers of deviation `scale`, drawn in `dtype`; `bits` gives bfloat16 as uint16."""
  drawn = jax.random.normal(jax.random.key(seed), shape, dtype) * jnp.asarray(scale).astype(dtype)
  return jax.lax.bitcast_convert_type(drawn, jnp.uint16) if bits else drawn
