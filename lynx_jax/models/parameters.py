"""A decoder's parameters by dotted path, such as `layers.0.attention.query`: the names that rules use."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lynx_jax.models.decoder import Decoder, abstract_decoder
from lynx_jax.models.spec import DecoderSpec
from pallas_kernels.weights.int8 import Int8Weight, Weight


def parameter_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of the decoder."""
  _, variables = _abstract(spec)
  return {_dotted(path): variable.shape for path, variable in variables}


def kept_in_float32(spec: DecoderSpec) -> frozenset[str]:
  """The parameters that stay float32 in a model of any dtype: a router's selection bias."""
  _, variables = _abstract(spec)
  return frozenset(_dotted(path) for path, variable in variables if variable.get_value().dtype == jnp.float32)


def by_path(decoder: Decoder) -> dict[str, Any]:
  """Every parameter of the decoder under its path; bfloat16 that `load` holds as its bits is bfloat16 again.

  Raises ValueError where `load` was asked for int8 weights.
  """
  flat = [(_dotted(path), variable.get_value()) for path, variable in nnx.to_flat_state(nnx.state(decoder))]
  if any(isinstance(value, Int8Weight) for _, value in flat):
    raise ValueError("the decoder's weights are int8, which no checkpoint holds: load it without weights='int8'")
  return {name: np.asarray(array).view(jnp.bfloat16) if array.dtype == np.uint16 else array for name, array in flat}


def assemble(spec: DecoderSpec, arrays: Mapping[str, Weight | jax.ShapeDtypeStruct]) -> Decoder:
  """The decoder whose parameters are `arrays`, abstract ones too; KeyError where one is missing."""
  graph, variables = _abstract(spec)
  filled = [(path, variable.replace(arrays[_dotted(path)])) for path, variable in variables]
  return nnx.merge(graph, nnx.from_flat_state(filled))


# Tracing the initialisation of 48 layers takes seconds, and a load needs the result twice.
@functools.lru_cache(maxsize=4)
def _abstract(spec: DecoderSpec) -> tuple[nnx.GraphDef, tuple[tuple[Any, nnx.Variable], ...]]:
  graph, state = nnx.split(abstract_decoder(spec, jnp.bfloat16))
  return graph, tuple(nnx.to_flat_state(state))


def _dotted(path: tuple[Any, ...]) -> str:
  return ".".join(str(part) for part in path)
