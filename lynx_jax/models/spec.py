"""What a decoder is made of: frozen, hashable descriptions from which everything else follows.

The parts of a layer are described beside their code: `attention.py`, `mla.py`, `dense.py` and `moe.py`.
"""

import dataclasses
from typing import Literal

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from pallas_kernels.checks import field_of, number_fields, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
  """One pre-norm transformer layer: the specs of its two parts."""

  attention: AttentionSpec | MLASpec
  ffn: MoESpec | DenseSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
  """A whole decoder-only model.

  Attributes:
    family: name of the family whose rules read the checkpoint, such as `mixtral`.
    vocab: entries of the vocabulary (V).
    width: model width (D).
    layers: one spec a layer.
    norm_eps: added to the mean square, or the variance, inside every norm.
    tied: whether the output head is the embedding.
    context: positions that the model was made for, in tokens.
    stop_ids: token ids that end a row.
    norm: of the residual stream: a root mean square (arXiv 1910.07467) or a LayerNorm (arXiv 1607.06450).
    norm_bias: whether a LayerNorm adds a bias.
    head_bias: whether the output head adds a bias.
    embedding_multiplier: scales what the embedding gives.
    residual_multiplier: scales what every part of a layer adds to the residual stream.
    logits_divisor: divides the output logits.
  """

  family: str
  vocab: int
  width: int
  layers: tuple[LayerSpec, ...]
  norm_eps: float
  tied: bool
  context: int
  stop_ids: tuple[int, ...] = ()
  norm: Literal["rms", "layer"] = "rms"
  norm_bias: bool = False
  head_bias: bool = False
  embedding_multiplier: float = 1.0
  residual_multiplier: float = 1.0
  logits_divisor: float = 1.0

  def __post_init__(self) -> None:
    whole_fields(self, "vocab", "width", "context", least=1)
    require(len(self.layers) > 0, field_of(self, "layers"), self.layers, "at least one layer")
    number_fields(self, "norm_eps", "logits_divisor", above=0)
    biased = self.norm == "layer" or not self.norm_bias
    require(biased, field_of(self, "norm_bias"), self.norm_bias, "False", "a root mean square has no bias")
    inside = all(0 <= token < self.vocab for token in self.stop_ids)
    require(inside, field_of(self, "stop_ids"), self.stop_ids, f"ids from 0 to {self.vocab - 1}")

  @property
  def moe_layers(self) -> tuple[int, ...]:
    """Indices of the layers that have experts."""
    return tuple(index for index, layer in enumerate(self.layers) if isinstance(layer.ffn, MoESpec))

  @property
  def moe_specs(self) -> tuple[MoESpec, ...]:
    """The specs of the feed-forward parts that have experts, in the order of `moe_layers`."""
    return tuple(layer.ffn for layer in self.layers if isinstance(layer.ffn, MoESpec))
