"""The dense model's forward pass with a choice of what its feed-forward parts compute, all layers in one `lax.scan`.

Layers are compiled once instead of thirty times, and a choice is data: one program serves every number of experts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from lynx_jax.models.decoder import Decoder, Layer
from lynx_jax.models.rope import rotation_at

# Takes normed rows [T, D] and the scan's data of the layer; returns the output [T, D] and what to remember.
Ffn = Callable[[Float32[Array, "T D"], Any], tuple[Float32[Array, "T D"], Any]]


def stacked_layers(decoder: Decoder) -> Layer:
  """The layers as one, every leaf with a first axis over layers; they must all be of one kind."""
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *decoder.layers)


def run(
  decoder: Decoder, layers: Layer, tokens: Int32[Array, "B L"], ffn: Ffn, of_layer: Any
) -> tuple[Float[Array, "B L D"], Any]:
  """Final hidden states, and what `ffn` remembered, stacked over layers.

  Args:
    decoder: for its embedding.
    layers: `stacked_layers(decoder)`.
    tokens: whole rows.
    ffn: a layer's feed-forward part.
    of_layer: what `ffn` is given of each layer, a pytree of arrays with a first axis over layers.
  """
  rows, length = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), tokens.shape)
  lengths = jnp.full((rows,), length, jnp.int32)

  rotation = rotation_at(positions, lengths, decoder.layers[0].attention.spec.rotary)

  def one(x_TD: jax.Array, inputs: tuple[Layer, Any]) -> tuple[jax.Array, Any]:
    layer, given = inputs
    attention: Any = layer.attention  # whose own projections it takes back
    projected = attention.project_in(x_TD, layer.attention_norm)
    mixed, _ = attention.attend_prompts(projected, rotation, positions, lengths)
    x_TD = attention.project_out(mixed, x_TD)
    y_TD, remembered = ffn(layer.ffn_norm(x_TD), given)
    return x_TD + y_TD, remembered

  start = decoder.embedding[...][tokens.reshape(-1)]
  hidden, remembered = jax.lax.scan(one, start, (layers, of_layer))
  return hidden.reshape(rows, length, -1), remembered
