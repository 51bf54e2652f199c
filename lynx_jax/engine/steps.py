"""The pure functions that inference is made of: score, prefill, decode one step, decode in a loop."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int, Int32

from lynx_jax.engine.sampling import sample
from lynx_jax.engine.state import DecodeState, Finish, Requests, RoutingTotals, greedy_requests, no_totals
from lynx_jax.models.decoder import rotations_at, run_causal, run_layers
from lynx_jax.models.params import Params
from lynx_jax.models.parts import OWN_ROUTE, AttentionPart, ExpertTrace, LayerCache
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import Route, RoutingPolicy, TiledRouting, route_by
from pallas_kernels.checks import require
from pallas_kernels.dims import ArrayLike, ExpertIds, RouterLogits
from pallas_kernels.lynx_route.replay import replay_routing


def forward(
  params: Params,
  token_ids: Int[ArrayLike, "B L"],
  lengths: Int[ArrayLike, "B"] | None = None,
  *,
  routing: Int[ArrayLike, "B L M K"] | None = None,
) -> Float32[Array, "B L V"]:
  """Logits of every position, causal, under the model's own routing; pure, jittable and differentiable.

  Args:
    params: a loaded model.
    token_ids: rows of tokens, padded on the right.
    lengths: tokens of each row; None takes all. Logits at padding are meaningless. Values are data, so lengths beyond L
      and ids beyond the vocabulary cannot be refused: they give meaningless logits.
    routing: the experts that each position runs in each of the M MoE layers, such as an engine reports of what it has
      generated (`Finished.routing`). None is the model's own.

  Raises:
    ValueError: there is no row, or no position, or `routing` is not of these rows, positions and MoE layers.
  """
  token_ids = _tokens(token_ids)
  route = OWN_ROUTE if routing is None else _replayed(params.spec, token_ids, jnp.asarray(routing, jnp.int32))
  lengths = jnp.full(token_ids.shape[:1], token_ids.shape[1], jnp.int32) if lengths is None else jnp.asarray(lengths)
  hidden, _, _ = run_causal(params.decoder, token_ids, lengths, route=route)
  return params.decoder.logits(hidden)


def _replayed(spec: DecoderSpec, token_ids: Int[Array, "B L"], routing: Int32[Array, "B L M K"]) -> list[Route]:
  """A route for each MoE layer that chooses these experts."""
  expected = (*token_ids.shape, len(spec.moe_layers))
  require(routing.shape[:3] == expected, "routing.shape", routing.shape, f"{expected}, and experts a token")
  return [functools.partial(_replay, routing[:, :, index].reshape(token_ids.size, -1)) for index in range(expected[2])]


def _replay(ids: ExpertIds, logits: RouterLogits, top_k: int, /, **rule: Any) -> TiledRouting:
  return replay_routing(logits, top_k, ids, **rule)


def prefill(
  params: Params,
  token_ids: Int[ArrayLike, "B L"],
  lengths: Int[ArrayLike, "B"],
  capacity: int,
  requests: Requests | None = None,
  *,
  collect_totals: bool = False,
) -> DecodeState:
  """Reads the prompts under the model's own routing and draws each row's first new token.

  Args:
    params: a loaded model.
    token_ids: prompts, padded on the right.
    lengths: tokens of each prompt; a row of length 0 is absent and stays so.
    capacity: positions to make room for (static), at least L; a row ends when it is full.
    requests: what each row asks for; None is greedy until a stop id of the model's or a full cache.
    collect_totals: whether decode steps should add up routing statistics (static).

  Raises:
    ValueError: there is no row or no position, or `capacity` is smaller than L. Values are data, so lengths outside of
      0 to L and ids beyond the vocabulary cannot be refused: their rows mean nothing.
  """
  token_ids, lengths = _tokens(token_ids), jnp.asarray(lengths, jnp.int32)
  rows, length = token_ids.shape
  if capacity < length:
    raise ValueError(
      f"capacity is {capacity} positions, fewer than the {length} of the prompts: give at least {length}"
    )
  if requests is None:
    requests = greedy_requests(rows, capacity, params.spec.stop_ids)
  hidden, cache, _ = run_causal(params.decoder, token_ids, lengths, remember=lambda cache: cache.with_room(capacity))
  last = jnp.take_along_axis(hidden, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]
  state = DecodeState(
    cache=tuple(cache),
    lengths=lengths,
    token=jnp.zeros((rows,), jnp.int32),
    output=jnp.zeros((rows, capacity), jnp.int32),
    generated=jnp.zeros((rows,), jnp.int32),
    finish=jnp.where(lengths > 0, Finish.RUNNING, Finish.ABSENT).astype(jnp.int32),
    requests=requests,
    totals=no_totals(len(params.spec.moe_layers)) if collect_totals else None,
  )
  return _take_token(state, params.decoder.logits(last), params.spec)


def _tokens(token_ids: Int[ArrayLike, "B L"]) -> Int32[Array, "B L"]:
  token_ids = jnp.asarray(token_ids, jnp.int32)
  require(token_ids.size > 0, "token_ids.shape", token_ids.shape, "at least one row and one position")
  return token_ids


def next_logits(
  params: Params, state: DecodeState, *, policy: RoutingPolicy | str | None = None
) -> tuple[Float32[Array, "B V"], DecodeState]:
  """Feeds every running row its newest token: scores of the next one, and the state that has read it.

  What a decode step does before it draws; with `policy` static. Scores of rows that do not run are meaningless.
  """
  positions, running = state.lengths, state.running

  rotations = rotations_at(params.spec, positions[:, None], positions + 1)

  def attend(layer: int, attention: AttentionPart, projected: Any) -> tuple[jax.Array, LayerCache]:
    return attention.attend_cached(projected, rotations[attention.spec.rotary], state.cache[layer], positions)

  route = route_by(policy)
  hidden, cache, traces = run_layers(params.decoder, state.token[:, None], running[:, None], attend, route=route)
  read = dataclasses.replace(
    state,
    cache=tuple(cache),
    lengths=positions + running.astype(jnp.int32),
    totals=None if state.totals is None else _add(state.totals, traces, running),
  )
  return params.decoder.logits(hidden[:, 0]), read


def decode_step(params: Params, state: DecodeState, *, policy: RoutingPolicy | str | None = None) -> DecodeState:
  """Feeds every running row its newest token and draws the next, with experts chosen under `policy` (static)."""
  logits, state = next_logits(params, state, policy=policy)
  return _take_token(state, logits, params.spec)


def decode_loop(
  params: Params,
  state: DecodeState,
  *,
  policy: RoutingPolicy | str | None = None,
  max_steps: int | Int32[Array, ""],
) -> DecodeState:
  """Decodes until every row has finished, or for `max_steps` more steps, in one `lax.while_loop`.

  Pure and jittable, with `policy` static and `max_steps` data; donate `state` to keep one copy of the cache:
  `jax.jit(decode_loop, static_argnames="policy", donate_argnames="state")`.
  """

  def going(carry: tuple[jax.Array, DecodeState]) -> jax.Array:
    return (carry[0] < max_steps) & jnp.any(carry[1].running)

  def step(carry: tuple[jax.Array, DecodeState]) -> tuple[jax.Array, DecodeState]:
    return carry[0] + 1, decode_step(params, carry[1], policy=policy)

  return jax.lax.while_loop(going, step, (jnp.zeros((), jnp.int32), state))[1]


def _take_token(state: DecodeState, logits_BV: jax.Array, spec: DecoderSpec) -> DecodeState:
  """Draws a token for each running row, stores it, and ends the rows that it completes."""
  running, requests = state.running, state.requests
  token, finite = sample(logits_BV, requests.samplers, state.generated)
  rows = jnp.arange(token.shape[0])
  # Row indices past the batch are dropped, so rows that do not run keep what they have.
  output = state.output.at[jnp.where(running, rows, rows.size), state.generated].set(token, mode="drop")
  generated = state.generated + running.astype(jnp.int32)
  full = state.lengths + 1 >= min(state.capacity, spec.context)
  finish = jnp.select(
    [
      ~finite,
      (token[:, None] == requests.stop_ids).any(axis=-1),
      (generated >= requests.max_new_tokens) | full,
    ],
    [jnp.full_like(token, reason) for reason in (Finish.NOT_FINITE, Finish.STOP, Finish.LENGTH)],
    jnp.full_like(token, Finish.RUNNING),
  )
  return dataclasses.replace(
    state,
    token=jnp.where(running, token, state.token),
    output=output,
    generated=generated,
    finish=jnp.where(running, finish, state.finish),
  )


def _add(totals: RoutingTotals, traces: list[ExpertTrace], running: jax.Array) -> RoutingTotals:
  """Adds one step's routing, for the layers that have experts."""
  # Rows that do not run retain 1 by definition; they are counted neither here nor in `rows`.
  own, active, retained = (jnp.stack(part) for part in zip(*(trace.stats(running) for trace in traces), strict=True))
  return RoutingTotals(
    steps=totals.steps + 1,
    rows=totals.rows + running.sum(dtype=jnp.int32),
    active=totals.active + active,
    own_active=totals.own_active + own,
    retained=totals.retained + jnp.where(running[None], retained, 0.0).sum(axis=1),
    worst_retained=jnp.minimum(totals.worst_retained, retained.min(axis=1)),
  )
