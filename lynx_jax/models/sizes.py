"""Sizes that follow from a spec or from weights: parameters, and the bytes that a token or a step moves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import DTypeLike

from lynx_jax.models.decoder import Decoder, abstract_decoder
from lynx_jax.models.spec import DecoderSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
  """A model's weights, in numbers or in bytes.

  Attributes:
    total: all parameters.
    active: those that one token uses: everything but the experts it does not run.
    experts: parameters of all experts.
    embedding: parameters of the input embedding, of which a step reads only its tokens' rows; 0 where it is the head.
  """

  total: int
  active: int
  experts: int
  embedding: int

  @property
  def always_read(self) -> int:
    """What every decode step reads, whichever experts run: attention, shared experts, norms, head, ..."""
    return self.total - self.experts - self.embedding


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Sizes):
  """Parameter counts of a model.

  Attributes:
    kv_per_token: numbers (keys and values, or MLA's latents) that the cache holds for one position, all layers.
  """

  kv_per_token: int


def counts(spec: DecoderSpec) -> Counts:
  """Counts from the abstract decoder; nothing is allocated."""
  sizes = _sizes(abstract_decoder(spec), _numbers)
  kv_per_token = sum(layer.attention.cache_spec(jnp.float32).numbers_per_position for layer in spec.layers)
  return Counts(**dataclasses.asdict(sizes), kv_per_token=kv_per_token)


def weight_bytes(decoder: Decoder) -> Sizes:
  """Bytes of a decoder's weights as it holds them, scales of quantised weights included; it may be abstract."""
  return _sizes(decoder, bytes_of)


def cache_bytes(spec: DecoderSpec, dtype: DTypeLike) -> int:
  """Bytes that the caches of all layers hold for one position, in a model of `dtype`."""
  return sum(layer.attention.cache_spec(dtype).bytes_per_position for layer in spec.layers)


def expert_bytes(decoder: Decoder) -> tuple[int, ...]:
  """Bytes of one expert, its biases and scales included, for each MoE layer."""
  return tuple(bytes_of(moe.expert_params) // moe.spec.experts for moe in decoder.moe_parts)


def bytes_of(tree: Any) -> int:
  """Bytes of all arrays of a pytree."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _numbers(tree: Any) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _sizes(decoder: Decoder, size: Callable[[Any], int]) -> Sizes:
  total, experts, idle = size(decoder), 0, 0
  for moe in decoder.moe_parts:
    every, count = size(moe.expert_params), moe.spec.experts
    experts += every
    idle += every // count * (count - moe.spec.top_k)
  embedding = 0 if decoder.spec.tied else size(decoder.embedding)
  return Sizes(total=total, active=total - idle, experts=experts, embedding=embedding)
