"""The one decoder that serves every family: assembled from its spec, run with a choice of attention and routing."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lynx_jax.models.attention import Attention
from lynx_jax.models.ffn import Dense, ExpertTrace, MoE
from lynx_jax.models.linear import bias, normal, normed_matmul, weight
from lynx_jax.models.mla import MLA
from lynx_jax.models.norms import Norm, make_norm
from lynx_jax.models.spec import DecoderSpec, LayerSpec, MLASpec, MoESpec
from lynx_jax.routing.select import Route, route_to_tiles
from pallas_kernels.weights.int8 import rows_at


class Layer(nnx.Module):
  """Attention and a feed-forward part, each behind its norm and added to the residual stream."""

  def __init__(self, spec: DecoderSpec, layer: LayerSpec, *, rngs: nnx.Rngs, dtype: jnp.dtype):
    width = spec.width
    self.attention_norm = _norm(spec, dtype)
    if isinstance(layer.attention, MLASpec):
      self.attention = MLA(width, layer.attention, rngs=rngs, dtype=dtype)
    else:
      self.attention = Attention(width, layer.attention, spec.norm_eps, rngs=rngs, dtype=dtype)
    self.ffn_norm = _norm(spec, dtype)
    ffn = MoE if isinstance(layer.ffn, MoESpec) else Dense
    self.ffn = ffn(width, layer.ffn, rngs=rngs, dtype=dtype)  # pyright: ignore[reportArgumentType]


class Decoder(nnx.Module):
  """Embedding [V, D], layers, final norm, and a head [V, D] unless it is the embedding, with a bias [V] or without."""

  def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs, dtype: Any = jnp.float32):
    dtype = jnp.dtype(dtype)
    self.spec = spec
    self.embedding = normal(rngs, (spec.vocab, spec.width), dtype)
    self.layers = nnx.List([Layer(spec, layer, rngs=rngs, dtype=dtype) for layer in spec.layers])
    self.final_norm = _norm(spec, dtype)
    self.head = None if spec.tied else normal(rngs, (spec.vocab, spec.width), dtype)
    self.head_bias = bias(spec.vocab, dtype=dtype, where=spec.head_bias)

  @property
  def dtype(self) -> jnp.dtype:
    """That of the residual stream: the weights', unless they are int8."""
    return self.final_norm.scale[...].dtype

  def embed(self, token_ids: Int[Array, "T"]) -> Float[Array, "T D"]:
    """The tokens' rows of the embedding."""
    return rows_at(weight(self.embedding), token_ids, self.dtype)

  def logits(self, hidden: Float[Array, "... D"]) -> Float32[Array, "... V"]:
    """Scores of the next token, in float32."""
    head = self.embedding if self.head is None else self.head
    rows = hidden.reshape(-1, hidden.shape[-1])
    scores = normed_matmul(rows, self.final_norm, head, self.head_bias, dtype="float32")
    scores = scores.reshape(*hidden.shape[:-1], -1)
    return scores if self.spec.logits_divisor == 1.0 else scores / self.spec.logits_divisor


def _norm(spec: DecoderSpec, dtype: jnp.dtype) -> Norm:
  return make_norm(spec.norm, spec.width, spec.norm_eps, bias=spec.norm_bias, dtype=dtype)


def abstract_decoder(spec: DecoderSpec, dtype: Any = jnp.float32) -> Decoder:
  """The decoder with `jax.ShapeDtypeStruct` leaves: nothing is allocated."""
  return jax.eval_shape(lambda: Decoder(spec, rngs=nnx.Rngs(0), dtype=dtype))


@runtime_checkable
class Mix(Protocol):
  """How a layer attends: its result, and what to remember of its keys and values."""

  def __call__(self, layer: int, attention: Any, projected: Any, /) -> tuple[jax.Array, Any]:
    """Attends in layer number `layer`: from `project_in`'s rows to what `project_out` takes, and what to keep.

    `attention` is an `Attention` or an `MLA`, which alone knows what its cache looks like.
    """
    ...


def run_layers(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  valid: Bool[Array, "B L"],
  mix: Mix,
  *,
  route: Route = route_to_tiles,
  capacity: int | None = None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """Runs every layer over `token_ids`; returns the hidden states, what `mix` remembered, and the experts' traces."""
  x, shape, spec = decoder.embed(token_ids.reshape(-1)), token_ids.shape, decoder.spec
  if spec.embedding_multiplier != 1.0:
    x = x * spec.embedding_multiplier
  remembered, traces = [], []
  for index, layer in enumerate(decoder.layers):
    with jax.named_scope(f"layer_{index}"):
      with jax.named_scope("attention"):
        mixed, kept = mix(index, layer.attention, layer.attention.project_in(x, layer.attention_norm))
        remembered.append(kept)
        if spec.residual_multiplier == 1.0:
          x = layer.attention.project_out(mixed, x)
        else:
          x = x + layer.attention.project_out(mixed, None) * spec.residual_multiplier
      y, trace = layer.ffn(x, layer.ffn_norm, valid.reshape(-1), route=route, capacity=capacity)
      x = x + (y if spec.residual_multiplier == 1.0 else y * spec.residual_multiplier)
      if trace is not None:
        traces.append(trace)
  return x.reshape(*shape, -1), remembered, traces


def run_causal(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  lengths: Int[Array, "B"],
  *,
  route: Route = route_to_tiles,
  capacity: int | None = None,
  remember: Callable[[Any], Any] = lambda cache: None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """`run_layers` over whole rows from position 0, by default under the model's own routing.

  Positions at or past a row's length are padding. `remember` picks what to return of each layer's cache, which is
  of L positions.
  """
  positions = jnp.broadcast_to(jnp.arange(token_ids.shape[1], dtype=jnp.int32), token_ids.shape)
  valid = positions < lengths[:, None]

  def mix(layer: int, attention: Any, projected: Any) -> tuple[jax.Array, Any]:
    mixed, cache = attention.attend_prompts(projected, positions, lengths)
    return mixed, remember(cache)

  return run_layers(decoder, token_ids, valid, mix, route=route, capacity=capacity)
