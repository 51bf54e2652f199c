"""What a policy costs a batch: cross-entropy, divergence from the model's own distribution, mass lost, experts read."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from lynx_jax.evals.decoding import Texts, decoded_hidden, own_hidden
from lynx_jax.models.params import Params
from lynx_jax.models.parts import ExpertTrace
from lynx_jax.routing import RoutingPolicy, lynx_route

# Positions whose logits are in memory at once. The logits of two models over a large vocabulary take much memory.
_HEAD_POSITIONS = 32


class BatchCost(NamedTuple):
  """Sums of a batch over its judged tokens, and means over its decode steps and layers.

  Attributes:
    tokens: judged tokens.
    cross_entropy: of the next tokens, in nats, summed.
    own_cross_entropy: the same under the model's own routing.
    divergence: KL from the model's own distribution, in nats, summed.
    agreement: tokens whose most likely successor is the model's own.
    experts: distinct experts a layer and step, mean.
    own_experts: the same of the model's own routing at the same router logits.
    retained: mass kept, summed over tokens, mean over layers.
    worst_retained: the least mass that a token keeps in any layer.
  """

  tokens: Int32[Array, ""]
  cross_entropy: Float32[Array, ""]
  own_cross_entropy: Float32[Array, ""]
  divergence: Float32[Array, ""]
  agreement: Float32[Array, ""]
  experts: Float32[Array, ""]
  own_experts: Float32[Array, ""]
  retained: Float32[Array, ""]
  worst_retained: Float32[Array, ""]


def batch_costs(params: Params, texts: Texts, policies: tuple[RoutingPolicy, ...]) -> list[BatchCost]:
  """What each policy costs when these texts decode as one batch. Policies are measured one after the other."""
  own = _own_hidden(params, texts)
  return [_cost(params, texts, own, policy=policy) for policy in policies]


_own_hidden = jax.jit(own_hidden)


@functools.partial(jax.jit, static_argnames="policy")
def _cost(params: Params, texts: Texts, own: jax.Array, *, policy: RoutingPolicy) -> BatchCost:
  hidden, traces = decoded_hidden(params, texts, policy)
  scores = compare_scores(params, own, hidden, texts)
  return BatchCost(jnp.sum(texts.judged, dtype=jnp.int32), *scores, *_routing_cost(traces, texts))


def compare_scores(
  params: Params, own: Float[Array, "B P D"], hidden: Float[Array, "B P D"], texts: Texts
) -> tuple[jax.Array, ...]:
  """Cross-entropy, the model's own, divergence and agreement, some positions at a time."""
  padding = -texts.targets.shape[1] % _HEAD_POSITIONS

  def blocks(x: jax.Array) -> jax.Array:
    x = jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
    return x.reshape(x.shape[0], -1, _HEAD_POSITIONS, *x.shape[2:]).swapaxes(0, 1)

  def block(inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    own, hidden, targets, judged = inputs
    own_log, log = (jax.nn.log_softmax(params.decoder.logits(x)) for x in (own, hidden))

    def total(per_token: jax.Array) -> jax.Array:
      return jnp.sum(jnp.where(judged, per_token, 0.0))

    def surprise(log: jax.Array) -> jax.Array:
      return total(-jnp.take_along_axis(log, targets[..., None], axis=-1)[..., 0])

    divergence = total(jnp.sum(jnp.exp(own_log) * (own_log - log), axis=-1))
    agreement = total((jnp.argmax(own_log, axis=-1) == jnp.argmax(log, axis=-1)).astype(jnp.float32))
    return surprise(log), surprise(own_log), divergence, agreement

  sums = jax.lax.map(block, tuple(blocks(x) for x in (own, hidden, texts.targets, texts.judged)))
  return tuple(part.sum() for part in sums)


def _routing_cost(traces: list[ExpertTrace], texts: Texts) -> tuple[jax.Array, ...]:
  """Distinct experts, the model's own, retained mass (sum over tokens) and the least of it, over layers."""
  judged = texts.judged
  figures = []
  for trace in traces:
    experts = trace.logits.shape[1]
    own = lynx_route(
      trace.logits,
      trace.top_k,
      router=trace.router,
      selection_bias=trace.selection_bias,
      implementation="reference",
    )
    # An expert that has no weight is not read, and keeps no mass.
    used = trace.routing.weights > 0
    kept = trace.stats().retained.reshape(judged.shape)
    figures.append((
      distinct_experts(trace.routing.ids, used, texts, experts),
      distinct_experts(own.ids, jnp.ones_like(used), texts, experts),
      jnp.sum(jnp.where(judged, kept, 0.0)),
      jnp.min(jnp.where(judged, kept, 1.0)),
    ))  # fmt: skip
  experts, own, retained, worst = (jnp.stack(part) for part in zip(*figures, strict=True))
  return experts.mean(), own.mean(), retained.mean(), worst.min()


def distinct_experts(ids_TK: jax.Array, used_TK: jax.Array, texts: Texts, experts: int) -> Float32[Array, ""]:
  """Distinct experts of the rows that run, mean over the decode steps at which any does."""
  named = jax.nn.one_hot(ids_TK, experts, dtype=jnp.bool_) & used_TK[:, :, None]
  by_row = texts.by_step(jnp.any(named, axis=1).reshape(*texts.judged.shape, experts))
  running = texts.running()
  by_step = jnp.sum(jnp.any(by_row & running[:, :, None], axis=0), axis=-1)
  steps = jnp.maximum(jnp.sum(jnp.any(running, axis=0)), 1)
  return jnp.sum(by_step).astype(jnp.float32) / steps.astype(jnp.float32)
