"""Creates random weights on the device in seconds, for measurements that depend on sizes only."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from lynx_jax.models.parameters import assemble, declarations
from lynx_jax.models.params import Params
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Role, dtype_of, form_for, held_as_bits
from pallas_kernels import BFloat16Bits, QuantizedWeight, abstract_quantized


def random_params(spec: DecoderSpec, dtype: Any = jnp.bfloat16, seed: int = 0, *, weights: str | None = None) -> Params:
  """What loading a checkpoint of `dtype` gives: normal weights of deviation 0.02, scales of one, no tokenizer.

  With `weights`, as `load` takes it, matrices that `load` would quantise hold even whole numbers of that deviation.
  Parameters are drawn one after the other, by one compiled program for each shape, without a second copy of any.
  """
  arrays = {}
  for number, (path, declared) in enumerate(declarations(spec).items()):
    kind = dtype_of(declared.role, dtype)
    form = form_for(declared.role, weights)
    if form is not None:
      arrays[path] = _quantized(abstract_quantized(declared.shape, form, kind), seed + number)
    elif declared.role is Role.NORM:
      arrays[path] = jnp.ones(declared.shape, kind)
    elif held_as_bits(declared.role, kind):
      arrays[path] = BFloat16Bits(normal(declared.shape, kind, seed + number, scale=0.02, bits=True))
    else:
      arrays[path] = normal(declared.shape, kind, seed + number, scale=0.02)
  return Params(decoder=assemble(spec, arrays))


def _quantized(weight: QuantizedWeight, seed: int) -> QuantizedWeight:
  """The abstract weight with random numbers, all scales equal."""
  # The deviation of an even choice among n whole numbers is about n / sqrt(12).
  scale = 0.02 * 12**0.5 / 2**weight.form.bits
  drawn = jnp.uint16 if weight.values.dtype == jnp.uint16 else jnp.uint8
  values = jax.random.bits(jax.random.key(seed), weight.values.shape, drawn)
  return dataclasses.replace(
    weight,
    values=jax.lax.bitcast_convert_type(values, weight.values.dtype),
    scales=jnp.full(weight.scales.shape, scale, weight.scales.dtype),
  )


@functools.partial(jax.jit, static_argnames=("shape", "dtype", "bits"))
def normal(
  shape: tuple[int, ...], dtype: Any, seed: int | jax.Array, *, scale: float | jax.Array = 1.0, bits: bool = False
) -> jax.Array:
  """Normal numbers of deviation `scale`, drawn in `dtype`; `bits` gives bfloat16 as uint16."""
  drawn = jax.random.normal(jax.random.key(seed), shape, dtype) * jnp.asarray(scale).astype(dtype)
  return jax.lax.bitcast_convert_type(drawn, jnp.uint16) if bits else drawn
