"""One parallel forward that computes what batched decoding would.

Routing is the only part of a layer in which rows influence each other. If the policy is applied to the rows of each
decode step separately, a causal forward over whole texts gives every position the hidden state that it would have if
these rows were decoded as one batch (arXiv 2511.02237, section 4).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from lynx_jax.models.decoder import run_causal
from lynx_jax.models.params import Params
from lynx_jax.models.parts import ExpertTrace
from lynx_jax.routing import Router, RoutingPolicy, TiledRouting, lynx_route
from pallas_kernels.dims import RouterLogits, RowMask, SelectionBias


class Texts(NamedTuple):
  """Rows of a decode batch whose tokens are known.

  Attributes:
    tokens: [B, L], padded on the right.
    lengths: tokens of each row.
    prompt_lengths: tokens that are prefilled, under the model's own routing. The others are fed by decode steps, which
      all rows begin together; a row that has ended is invalid from then on, as a finished row is in decoding.
  """

  tokens: Int32[Array, "B L"]
  lengths: Int32[Array, "B"]
  prompt_lengths: Int32[Array, "B"]

  @property
  def inputs(self) -> Int32[Array, "B P"]:
    """The tokens that are fed: all but the last."""
    return self.tokens[:, :-1]

  @property
  def targets(self) -> Int32[Array, "B P"]:
    """What each position should predict."""
    return self.tokens[:, 1:]

  @property
  def judged(self) -> Bool[Array, "B P"]:
    """Positions that a decode step feeds and that have a next token."""
    at = jnp.arange(self.tokens.shape[1] - 1)[None, :]
    return (at >= self.prompt_lengths[:, None]) & (at < self.lengths[:, None] - 1)

  def by_step(self, of_position: Array) -> Array:
    """Moves each row of [B, P, ...] so that axis 1 counts decode steps. Past a row's end its last entry is repeated."""
    steps = jnp.arange(of_position.shape[1])[None, :] + self.prompt_lengths[:, None]
    return _gather(of_position, jnp.minimum(steps, of_position.shape[1] - 1))

  def by_position(self, of_step: Array) -> Array:
    """The inverse of `by_step` on judged positions; the rest is meaningless."""
    positions = jnp.arange(of_step.shape[1])[None, :] - self.prompt_lengths[:, None]
    return _gather(of_step, jnp.maximum(positions, 0))

  def running(self) -> Bool[Array, "B P"]:
    """Whether each row is still decoding at each step."""
    steps = jnp.arange(self.tokens.shape[1] - 1)[None, :]
    return steps < (self.lengths - 1 - self.prompt_lengths)[:, None]


def whole_rows(tokens: Int32[Array, "B L"], prompt_length: int = 0) -> Texts:
  """Rows without padding, the first `prompt_length` tokens of each prefilled.

  Raises:
    ValueError: nothing would be left to judge.
  """
  rows, length = tokens.shape
  if not 0 <= prompt_length < length - 1:
    raise ValueError(f"prompt_length is {prompt_length}: rows of {length} tokens leave nothing to judge")
  return Texts(tokens, jnp.full((rows,), length, jnp.int32), jnp.full((rows,), prompt_length, jnp.int32))


def own_hidden(params: Params, texts: Texts) -> Float[Array, "B P D"]:
  """Final hidden states under the model's own routing."""
  return run_causal(params.decoder, texts.inputs, texts.lengths - 1)[0]


def own_traces(params: Params, texts: Texts) -> list[ExpertTrace]:
  """The model's own routing of every layer."""
  return run_causal(params.decoder, texts.inputs, texts.lengths - 1)[2]


def decoded_hidden(
  params: Params, texts: Texts, policy: RoutingPolicy
) -> tuple[Float[Array, "B P D"], list[ExpertTrace]]:
  """Final hidden states where the texts decode as one batch under `policy`, and the routing of each layer."""
  route = functools.partial(route_by_step, policy=policy, texts=texts)
  hidden, _, traces = run_causal(params.decoder, texts.inputs, texts.lengths - 1, route=route)
  return hidden, traces


def route_by_step(
  logits: RouterLogits,
  top_k: int,
  /,
  *,
  policy: RoutingPolicy,
  texts: Texts,
  router: Router,
  valid: RowMask,
  selection_bias: SelectionBias | None = None,
) -> TiledRouting:
  """Routes all positions of `texts` at once, the rows of each decode step as one batch, the prompts by themselves.

  Where a policy runs fewer experts a token, the row's own next ones fill the ids, with no weight.
  """
  rows, positions = texts.inputs.shape
  # In plain JAX, which `vmap` turns into one program over all steps.
  by_rule = functools.partial(
    lynx_route, top_k=top_k, router=router, selection_bias=selection_bias, implementation="reference"
  )
  own = by_rule(logits, valid=valid)

  def one_step(logits: jax.Array, running: jax.Array) -> tuple[jax.Array, jax.Array]:
    routing = by_rule(logits, policy=policy, valid=running)
    return routing.ids, routing.weights

  of_step = texts.by_step(logits.reshape(rows, positions, -1))
  ids, weights = jax.vmap(one_step, in_axes=1, out_axes=1)(of_step, texts.running())
  ids, weights = (texts.by_position(x).reshape(rows * positions, -1) for x in (ids, weights))
  missing = top_k - ids.shape[1]
  ids = jnp.concatenate([ids, own.ids[:, top_k - missing :]], axis=1)
  weights = jnp.pad(weights, ((0, 0), (0, missing)))
  decoded = texts.judged.reshape(-1, 1)
  return TiledRouting(jnp.where(decoded, ids, own.ids), jnp.where(decoded, weights, own.weights), own.active)


def _gather(x: Array, index: Int32[Array, "B P"]) -> Array:
  return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)
