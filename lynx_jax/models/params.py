"""A loaded model as one pytree of weights, with the tokenizer beside it."""

import dataclasses
from typing import Any

import jax
from jax.core import Tracer

from lynx_jax.models.decoder import Decoder
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.text.tokenizer import Tokenizer


class _Beside:
  """A tokenizer that travels with a pytree and is no part of its structure: any two of these are equal.

  `jax.jit` compares structures to find a compiled program. Models of one spec therefore share their programs, whatever
  their tokenizers are, and no call hashes a tokenizer.
  """

  __slots__ = ("tokenizer",)

  def __init__(self, tokenizer: Tokenizer | None):
    self.tokenizer = tokenizer

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Beside)

  def __hash__(self) -> int:
    return hash(_Beside)


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Params:
  """A model's weights, what every function of the engine takes first, and its tokenizer, which only text needs.

  A pytree of the weights. `jax.tree.map` and copies keep the tokenizer. Under `jax.jit` and the other transformations
  it is None: a program does not depend on a tokenizer, and models with different tokenizers share one program.

  Attributes:
    decoder: the model, a pytree of arrays.
    tokenizer: None where the checkpoint has none; then only token-id prompts work.
  """

  decoder: Decoder
  tokenizer: Tokenizer | None = None

  @property
  def spec(self) -> DecoderSpec:
    """What the decoder is made of."""
    return self.decoder.spec

  def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], _Beside]:
    """The decoder, and the tokenizer beside the structure."""
    return ((jax.tree_util.GetAttrKey("decoder"), self.decoder),), _Beside(self.tokenizer)

  def tree_flatten(self) -> tuple[tuple[Any, ...], _Beside]:
    """As `tree_flatten_with_keys`, without keys."""
    return (self.decoder,), _Beside(self.tokenizer)

  @classmethod
  def tree_unflatten(cls, beside: _Beside, children: tuple[Any, ...]) -> "Params":
    """Puts both together; a traced decoder gets no tokenizer, because its program may run for another model."""
    params = object.__new__(cls)
    traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(children))
    object.__setattr__(params, "decoder", children[0])
    object.__setattr__(params, "tokenizer", None if traced else beside.tokenizer)
    return params
