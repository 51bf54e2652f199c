"""The one decoder that serves every family: assembled from its spec, run with a choice of attention and routing."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lynx_jax.models.attention import Attention, causal_attention
from lynx_jax.models.ffn import Dense, ExpertTrace, MoE
from lynx_jax.models.linear import normal, project
from lynx_jax.models.norms import RMSNorm
from lynx_jax.models.spec import AttentionSpec, DecoderSpec, LayerSpec, MoESpec
from lynx_jax.routing import RoutingPolicy


class Layer(nnx.Module):
  """Attention and a feed-forward part, each behind its norm and added to the residual stream."""

  def __init__(self, width: int, spec: LayerSpec, eps: float, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    self.attention_norm = RMSNorm(width, eps, dtype=dtype)
    self.attention = Attention(width, spec.attention, eps, rngs=rngs, dtype=dtype)
    self.ffn_norm = RMSNorm(width, eps, dtype=dtype)
    ffn = MoE if isinstance(spec.ffn, MoESpec) else Dense
    self.ffn = ffn(width, spec.ffn, rngs=rngs, dtype=dtype)  # pyright: ignore[reportArgumentType]


class Decoder(nnx.Module):
  """Embedding [V, D], layers, final norm, and a head [V, D] unless it is the embedding."""

  def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
    dtype = jnp.dtype(dtype)
    self.spec = spec
    self.embedding = normal(rngs, (spec.vocab, spec.width), dtype)
    self.layers = nnx.List([Layer(spec.width, layer, spec.norm_eps, rngs=rngs, dtype=dtype) for layer in spec.layers])
    self.final_norm = RMSNorm(spec.width, spec.norm_eps, dtype=dtype)
    self.head = None if spec.tied else normal(rngs, (spec.vocab, spec.width), dtype)

  def logits(self, hidden: Float[Array, "... D"]) -> Float32[Array, "... V"]:
    """Scores of the next token, in float32."""
    weight = self.embedding if self.head is None else self.head
    return project(self.final_norm(hidden), weight[...])


def abstract_decoder(spec: DecoderSpec, dtype: Any = jnp.float32) -> Decoder:
  """The decoder with `jax.ShapeDtypeStruct` leaves: nothing is allocated."""
  return jax.eval_shape(lambda: Decoder(spec, rngs=nnx.Rngs(0), dtype=dtype))


@runtime_checkable
class Mix(Protocol):
  """How a layer attends: its result, and what to remember of its keys and values."""

  def __call__(
    self, layer: int, spec: AttentionSpec, query: jax.Array, key: jax.Array, value: jax.Array, /
  ) -> tuple[jax.Array, Any]:
    """Attends with query [B, L, N, H] and key, value [B, L, G, H] of layer number `layer`."""
    ...


def run_layers(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  positions: Int[Array, "B L"],
  valid: Bool[Array, "B L"],
  mix: Mix,
  *,
  policy: RoutingPolicy | None = None,
  capacity: int | None = None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """Runs every layer over `token_ids`; returns the hidden states, what `mix` remembered, and the experts' traces."""
  x = decoder.embedding[...][token_ids]
  remembered, traces = [], []
  for index, (layer, spec) in enumerate(zip(decoder.layers, decoder.spec.layers, strict=True)):
    with jax.named_scope(f"layer_{index}"):
      with jax.named_scope("attention"):
        query, key, value = layer.attention.project_in(layer.attention_norm(x), positions)
        mixed, kept = mix(index, spec.attention, query, key, value)
        remembered.append(kept)
        x = x + layer.attention.project_out(mixed)
      rows = layer.ffn_norm(x).reshape(-1, x.shape[-1])
      if isinstance(layer.ffn, MoE):
        y, trace = layer.ffn(rows, valid.reshape(-1), policy=policy, capacity=capacity)
        traces.append(trace)
      else:
        y = layer.ffn(rows)
      x = x + y.reshape(x.shape)
  return x, remembered, traces


def run_causal(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  lengths: Int[Array, "B"],
  *,
  capacity: int | None = None,
  remember: Callable[[int, jax.Array, jax.Array], Any] = lambda layer, key, value: None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """`run_layers` over whole rows from position 0, under the model's own routing (training, scoring, prefill).

  Positions at or past a row's length are padding. `remember(layer, key [B, L, G, H], value)` picks what to return
  of each layer's keys and values.
  """
  positions = jnp.broadcast_to(jnp.arange(token_ids.shape[1], dtype=jnp.int32), token_ids.shape)
  valid = positions < lengths[:, None]

  def mix(layer: int, spec: AttentionSpec, query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
    return causal_attention(query, key, value, lengths, spec.window), remember(layer, key, value)

  return run_layers(decoder, token_ids, positions, valid, mix, capacity=capacity)
