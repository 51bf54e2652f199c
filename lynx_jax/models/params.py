"""A loaded model as one pytree: its weights, with the spec and the tokenizer riding along as static data."""

import dataclasses

import jax

from lynx_jax.models.decoder import Decoder
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.text.tokenizer import Tokenizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Params:
  """Weights (leaves), `spec` and `tokenizer` (static); what every function of the engine takes first.

  Attributes:
    decoder: the model, a pytree of arrays.
    tokenizer: None where the checkpoint has none; then only token-id prompts work.
  """

  decoder: Decoder
  tokenizer: Tokenizer | None = dataclasses.field(default=None, metadata={"static": True})

  @property
  def spec(self) -> DecoderSpec:
    """What the decoder is made of."""
    return self.decoder.spec
