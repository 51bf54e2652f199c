"""A decoder's parameters by dotted path, such as `layers.0.attention.query`: the names that checkpoint rules use."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import DTypeLike

from lynx_jax.models.declare import declaration_of
from lynx_jax.models.decoder import Decoder, abstract_decoder
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Declared, abstract, dtype_of
from pallas_kernels import QuantizedWeight
from pallas_kernels.weights.base import Weight, held_as, is_exact, on_host


def declarations(spec: DecoderSpec) -> dict[str, Declared]:
  """What the decoder's modules declare of every parameter."""
  return {path: declaration_of(variable) for path, variable in _parameters(abstract_decoder(spec))}


def parameter_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of the decoder."""
  return {path: declared.shape for path, declared in declarations(spec).items()}


def kept_in_float32(spec: DecoderSpec) -> frozenset[str]:
  """The parameters that stay float32 in a model of any dtype: a router's selection bias."""
  exact = np.dtype(np.float32)
  return frozenset(path for path, one in declarations(spec).items() if dtype_of(one.role, jnp.bfloat16) == exact)


def by_path(decoder: Decoder) -> dict[str, Any]:
  """Every parameter of the decoder under its path, as plain arrays.

  Raises:
    ValueError: weights are held in a form, such as int8, that has lost the numbers that it was made of.
  """
  found = {path: variable.get_value() for path, variable in _parameters(decoder)}
  for value in found.values():
    if not is_exact(value):
      kind = held_as(value)
      raise ValueError(f"weights are {kind}, which are no plain numbers: load the checkpoint with weights='float'")
  return {path: on_host(value) for path, value in found.items()}


def assemble(spec: DecoderSpec, arrays: Mapping[str, Weight | jax.ShapeDtypeStruct]) -> Decoder:
  """The decoder whose parameters are `arrays`, abstract ones too; KeyError where one is missing."""
  graph, state = nnx.split(abstract_decoder(spec))
  filled = [(path, variable.replace(arrays[_dotted(path)])) for path, variable in nnx.to_flat_state(state)]
  return nnx.merge(graph, nnx.from_flat_state(filled))


def abstract_model(
  spec: DecoderSpec, dtype: DTypeLike, weights: str | None = None, stored: Mapping[str, QuantizedWeight] | None = None
) -> Decoder:
  """The decoder that `load` would return, with shapes and dtypes in place of arrays.

  `stored` are the parameters that the files hold quantised, by path, as shapes and dtypes.
  """
  found = stored or {}
  held = {path: abstract(one, dtype, weights, found.get(path)) for path, one in declarations(spec).items()}
  return assemble(spec, held)


def _parameters(decoder: Decoder) -> Iterator[tuple[str, nnx.Variable]]:
  for path, variable in nnx.to_flat_state(nnx.state(decoder)):
    yield _dotted(path), variable


def _dotted(path: tuple[Any, ...]) -> str:
  return ".".join(str(part) for part in path)
