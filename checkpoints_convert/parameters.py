"""A decoder's parameters by dotted path, such as `layers.0.attention.query`: the names that rules use."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from lynx_jax.models.decoder import Decoder, abstract_decoder
from lynx_jax.models.spec import DecoderSpec


def parameter_shapes(spec: DecoderSpec) -> dict[str, tuple[int, ...]]:
  """Shape of every parameter of the decoder."""
  return {path: array.shape for path, array in by_path(abstract_decoder(spec)).items()}


def by_path(decoder: Decoder) -> dict[str, Any]:
  """Every parameter of the decoder under its path."""
  return {_dotted(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.state(decoder))}


def assemble(spec: DecoderSpec, arrays: Mapping[str, jax.Array]) -> Decoder:
  """The decoder whose parameters are `arrays`; KeyError where one is missing."""
  graph, state = nnx.split(abstract_decoder(spec))
  filled = [(path, variable.replace(arrays[_dotted(path)])) for path, variable in nnx.to_flat_state(state)]
  return nnx.merge(graph, nnx.from_flat_state(filled))


def _dotted(path: tuple[Any, ...]) -> str:
  return ".".join(str(part) for part in path)
