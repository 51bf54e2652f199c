"""The one decoder that serves every family: assembled from its spec, run with a choice of attention and routing."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from lynx_jax.models.declare import Declare
from lynx_jax.models.linear import normed_matmul, weight
from lynx_jax.models.moe import MoE
from lynx_jax.models.norms import Norm, make_norm
from lynx_jax.models.parts import OWN_ROUTE, AttentionPart, ExpertChoice, ExpertTrace, FeedForwardPart
from lynx_jax.models.rope import Rotary, Rotation, rotation_at
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.placement import Role
from lynx_jax.routing import Route
from pallas_kernels.weights.base import rows_at

Rotations: TypeAlias = dict[Rotary, Rotation]
"""The rotation at a step's positions, for each kind of rotation that the layers use."""


class Layer(nnx.Module):
  """Attention and a feed-forward part, each behind its norm and added to the residual stream."""

  attention: AttentionPart
  ffn: FeedForwardPart

  def __init__(self, spec: DecoderSpec, layer: LayerSpec, declare: Declare):
    self.attention_norm = _norm(spec, declare)
    self.attention = layer.attention.build(spec.width, spec.norm_eps, declare)
    self.ffn_norm = _norm(spec, declare)
    self.ffn = layer.ffn.build(spec.width, declare)


class Decoder(nnx.Module):
  """Embedding [V, D], layers, final norm, and a head [V, D] unless it is the embedding, with a bias [V] or without.

  Without `rngs` its parameters are abstract: shapes and dtypes alone.
  """

  def __init__(self, spec: DecoderSpec, *, rngs: nnx.Rngs | None, dtype: Any = jnp.float32):
    declare = Declare(rngs, dtype)
    table = (spec.vocab, spec.width)
    self.spec = spec
    self.embedding = declare.param(table, "V D", Role.HEAD if spec.tied else Role.EMBEDDING)
    self.layers = nnx.List([Layer(spec, layer, declare) for layer in spec.layers])
    self.final_norm = _norm(spec, declare)
    self.head = None if spec.tied else declare.param(table, "V D", Role.HEAD)
    self.head_bias = declare.bias((spec.vocab,), "V", present=spec.head_bias)

  @property
  def moe_parts(self) -> tuple[MoE, ...]:
    """The feed-forward parts that have experts, in the order of `DecoderSpec.moe_layers`."""
    return tuple(cast(MoE, self.layers[index].ffn) for index in self.spec.moe_layers)

  @property
  def dtype(self) -> jnp.dtype:
    """That of the residual stream: the weights', unless they are quantised."""
    return self.final_norm.scale[...].dtype

  def embed(self, token_ids: Int[Array, "T"]) -> Float[Array, "T D"]:
    """The tokens' rows of the embedding."""
    return rows_at(weight(self.embedding), token_ids)

  def logits(self, hidden: Float[Array, "... D"]) -> Float32[Array, "... V"]:
    """Scores of the next token, in float32."""
    head = self.embedding if self.head is None else self.head
    rows = hidden.reshape(-1, hidden.shape[-1])
    scores = normed_matmul(rows, self.final_norm, head, self.head_bias, dtype="float32")
    scores = scores.reshape(*hidden.shape[:-1], -1)
    return scores if self.spec.logits_divisor == 1.0 else scores / self.spec.logits_divisor


def _norm(spec: DecoderSpec, declare: Declare) -> Norm:
  return make_norm(spec.norm, spec.width, spec.norm_eps, declare, bias=spec.norm_bias)


def abstract_decoder(spec: DecoderSpec, dtype: Any = jnp.float32) -> Decoder:
  """The decoder with `jax.ShapeDtypeStruct` leaves, made of the declarations: nothing is allocated or traced."""
  return Decoder(spec, rngs=None, dtype=dtype)


def rotations_at(spec: DecoderSpec, positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"]) -> Rotations:
  """The rotations at these positions, computed once for all layers of a kind; `lengths_B` as for `rotation_at`."""
  kinds = dict.fromkeys(layer.attention.rotary for layer in spec.layers)
  return {kind: rotation_at(positions_BL, lengths_B, kind) for kind in kinds}


@runtime_checkable
class Attend(Protocol):
  """How a run attends: to the prompts' own rows, or to a cache."""

  def __call__(self, layer: int, attention: AttentionPart, projected: Any, /) -> tuple[jax.Array, Any]:
    """Attends in layer number `layer`, from `project_in`'s rows.

    Returns what `project_out` takes, and what the run should remember of the layer.
    """
    ...


def run_layers(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  valid: Bool[Array, "B L"],
  attend: Attend,
  *,
  route: Route | Sequence[Route] = OWN_ROUTE,
  expert_capacity: int | None = None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """Runs every layer over `token_ids`; returns the hidden states, what `attend` remembered, and the experts' traces.

  `route` and `expert_capacity` as in `ExpertChoice`; several routes are one for each MoE layer.
  """
  routes = itertools.repeat(route) if callable(route) else iter(route)
  x = embedded(decoder, token_ids.reshape(-1))
  remembered, traces = [], []
  for index, layer in enumerate(decoder.layers):
    of_layer = next(routes) if index in decoder.spec.moe_layers else OWN_ROUTE
    choice = ExpertChoice(valid.reshape(-1), of_layer, expert_capacity)
    with jax.named_scope(f"layer_{index}"):
      x, kept, trace = run_layer(
        layer, x, functools.partial(attend, index), choice, residual_multiplier=decoder.spec.residual_multiplier
      )
    remembered.append(kept)
    if trace is not None:
      traces.append(trace)
  return x.reshape(*token_ids.shape, -1), remembered, traces


def embedded(decoder: Decoder, token_ids: Int[Array, "T"]) -> Float[Array, "T D"]:
  """What the first layer reads: the tokens' rows of the embedding, times the model's multiplier."""
  x = decoder.embed(token_ids)
  multiplier = decoder.spec.embedding_multiplier
  return x if multiplier == 1.0 else x * multiplier


def run_layer(
  layer: Layer,
  x_TD: Float[Array, "T D"],
  attend: Callable[[AttentionPart, Any], tuple[jax.Array, Any]],
  choice: ExpertChoice,
  *,
  residual_multiplier: float,
) -> tuple[Float[Array, "T D"], Any, ExpertTrace | None]:
  """Runs one layer; returns the residual stream, what `attend` remembered, and what experts did, where there are any.

  Args:
    layer: its parameters.
    x_TD: the residual stream.
    attend: `Attend` of this layer.
    choice: how experts are chosen.
    residual_multiplier: scales what both parts add to the stream.
  """

  def added(y: jax.Array) -> jax.Array:
    return y if residual_multiplier == 1.0 else y * residual_multiplier

  with jax.named_scope("attention"):
    attended, kept = attend(layer.attention, layer.attention.project_in(x_TD, layer.attention_norm, choice.used))
    if residual_multiplier == 1.0:
      x_TD = layer.attention.project_out(attended, x_TD, choice.used)
    else:
      x_TD = x_TD + added(layer.attention.project_out(attended, None, choice.used))
  y, trace = layer.ffn.feed(x_TD, layer.ffn_norm, choice)
  return x_TD + added(y), kept, trace


def run_causal(
  decoder: Decoder,
  token_ids: Int[Array, "B L"],
  lengths: Int[Array, "B"],
  *,
  route: Route | Sequence[Route] = OWN_ROUTE,
  expert_capacity: int | None = None,
  remember: Callable[[Any], Any] = lambda cache: None,
) -> tuple[Float[Array, "B L D"], list[Any], list[ExpertTrace]]:
  """`run_layers` over whole rows from position 0, by default under the model's own routing.

  Positions at or past a row's length are padding. `remember` picks what to return of each layer's cache, which is
  of L positions.
  """
  positions = jnp.broadcast_to(jnp.arange(token_ids.shape[1], dtype=jnp.int32), token_ids.shape)
  valid = positions < lengths[:, None]
  rotations = rotations_at(decoder.spec, positions, lengths)

  def attend(layer: int, attention: AttentionPart, projected: Any) -> tuple[jax.Array, Any]:
    rotation = rotations[attention.spec.rotary]
    attended, cache = attention.attend_prompts(projected, rotation, positions, lengths)
    return attended, remember(cache)

  return run_layers(decoder, token_ids, valid, attend, route=route, expert_capacity=expert_capacity)
