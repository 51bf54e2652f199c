"""The pure function of one engine step: rows of many sequences pass through the layers, and draw their next tokens."""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int16, Int32

from lynx_jax.engine.paged.adjusting import StepEdits, unpack_changes, unpack_masks
from lynx_jax.engine.paged.readers import expert_readers
from lynx_jax.engine.paged.step_arrays import ABSENT, ADAPTIVE, CHUNK, StepArrays
from lynx_jax.engine.sampling import LogitEdits, Samplers, sample
from lynx_jax.models.decoder import Decoder, Layer, embedded, rotations_at, run_layer
from lynx_jax.models.paged import PagedRows
from lynx_jax.models.parts import OWN_ROUTE, AttentionPart, ExpertChoice, ExpertTrace, LayerCache
from lynx_jax.models.rope import Rotation
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import Route, RoutingPolicy, TiledRouting
from pallas_kernels.block_tables import BlockTables
from pallas_kernels.chunk_attention import QueryTiles
from pallas_kernels.dims import RouterLogits
from pallas_kernels.lynx_route import lynx_route_tiles

MOST_TOP_LOGPROBS = 20
"""Likely tokens that a step reports beside the drawn one, at most."""


class PagedState(NamedTuple):
  """What the device keeps from one step to the next.

  Attributes:
    cache: a pool of blocks, one `LayerCache` a layer.
    token: the newest token of each slot, not yet in the cache.
    alive: whether the slot's sequence goes on; a row that drew a stop token ends here at once.
  """

  cache: tuple[LayerCache, ...]
  token: Int32[Array, "S"]
  alive: Bool[Array, "S"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
  """What is fixed when a step program is compiled, beside its shape.

  Attributes:
    policy: which experts adaptive rows may use; None is the model's own routing for all.
    limited: whether `StepArrays.limit` bounds the experts of a layer.
    stats: whether to compare the policy with the model's own routing.
    routing: whether to return the experts of every row.
    readers: whether to say who reads each expert.
    prompts_apart: whether prompts are read in steps in which nothing decodes. Their programs then do not depend on the
      policy, and engines under several policies share them.
  """

  policy: RoutingPolicy | None = None
  limited: bool = False
  stats: bool = False
  routing: bool = False
  readers: bool = False
  prompts_apart: bool = False

  def of_steps(self, *, chunks: bool) -> "StepSettings":
    """The settings of programs that read prompts (`chunks`), or of those that decode alone."""
    if chunks and self.prompts_apart:
      return StepSettings(routing=self.routing, readers=self.readers)
    return dataclasses.replace(self, prompts_apart=False)


class LayerCounts(NamedTuple):
  """What one step's routing reads in each MoE layer (L of them).

  Attributes:
    rows: decoding rows that were there.
    active: distinct experts that run.
    own: distinct experts that the model's own routing would run, or None where that is not asked for.
    retained: worth that decoding rows retain, summed over them, or None.
    worst: the least that a row retains, or None.
    readers: who reads each expert, as bits (`lynx_jax.engine.paged.readers`), or None.
  """

  rows: Int32[Array, ""]
  active: Int32[Array, "M"]
  own: Int32[Array, "M"] | None = None
  retained: Float32[Array, "M"] | None = None
  worst: Float32[Array, "M"] | None = None
  readers: Int32[Array, "M E"] | None = None


class Likely(NamedTuple):
  """Log-probabilities of some rows, in nats; zeros where nobody asked.

  Attributes:
    chosen: that of the row's token.
    ids: the most likely tokens.
    logprobs: theirs.
  """

  chosen: Float32[Array, "R"]
  ids: Int32[Array, "R _"]
  logprobs: Float32[Array, "R _"]


class StepOutputs(NamedTuple):
  """What one step has drawn and counted.

  Attributes:
    ids: the token that each draw took.
    finite: whether its logits were all finite; where they were not, the token means nothing.
    alive: whether its sequence goes on, as far as the device knows.
    likely: of the drawn tokens.
    counts: what routing read.
    prompts: of the prompts' tokens, one a row; None in a pure decode step.
    experts: the experts of every row and MoE layer, or None where they are not asked for.
  """

  ids: Int32[Array, "D"]
  finite: Bool[Array, "D"]
  alive: Bool[Array, "D"]
  likely: Likely
  counts: LayerCounts
  prompts: Likely | None
  experts: Int16[Array, "T M K"] | None


def paged_step(
  decoder: Decoder, state: PagedState, step: StepArrays, edits: StepEdits, settings: StepSettings
) -> tuple[PagedState, StepOutputs]:
  """One step of all its rows; pure, with `settings` static.

  Chunks of prompts and exact rows run the model's own experts, whatever else is in the step. The experts that they read
  are free for adaptive rows, which choose under the policy. `edits` are those of the draws' logits, by slot.
  """
  present, rows = _rows_of(state, step)
  hidden, cache, traces = _run_layers(decoder, state, step, rows, present, settings)
  logits = decoder.logits(hidden[step.draw_row])
  drawn = sample(logits, _samplers(step), step.draw_index, _logit_edits(step, edits, logits.shape[1]))
  stopped = (drawn.ids[:, None] == step.draw_stop_ids).any(axis=-1)
  alive = drawn.finite & ~stopped & present[step.draw_row]
  # A slot past the last is dropped: a draw that is not there, or a row whose sequence has ended.
  slot = jnp.where(present[step.draw_row], step.draw_slot, state.token.shape[0])
  outputs = StepOutputs(
    drawn.ids,
    drawn.finite,
    alive,
    likely=_likely(logits, drawn.ids, step.draw_logprobs),
    counts=_counts(traces, present, step.row_kind, settings),
    prompts=None if rows.tiles is None else _prompt_logprobs(decoder, hidden, step.row_target, step.draw_row.shape[0]),
    experts=_experts(traces) if settings.routing else None,
  )
  token = state.token.at[slot].set(drawn.ids, mode="drop")
  return PagedState(cache, token, state.alive.at[slot].set(alive, mode="drop")), outputs


def _rows_of(state: PagedState, step: StepArrays) -> tuple[Bool[Array, "T"], PagedRows]:
  """Which rows are there, without those whose sequences have ended on the device, and where they lie."""
  decodes = step.row_kind > CHUNK
  present = (step.row_kind != ABSENT) & (state.alive[step.row_slot] | ~decodes)
  tiles = None
  if step.tile_start.shape[0]:
    tiles = QueryTiles(step.tile_start, step.tile_count, step.tile_slot, step.tile_position)
  rows = PagedRows(
    positions=jnp.where(present, step.row_position, -1),
    lengths=step.row_length,
    decodes=decodes,
    blocks=BlockTables(step.tables, step.row_slot),
    used=jnp.sum(step.row_kind != ABSENT, dtype=jnp.int32),
    tiles=tiles,
    most_decoding=step.draw_row.shape[0],
  )
  return present, rows


def _run_layers(
  decoder: Decoder,
  state: PagedState,
  step: StepArrays,
  rows: PagedRows,
  present: Bool[Array, "T"],
  settings: StepSettings,
) -> tuple[Float[Array, "T D"], tuple[LayerCache, ...], list[ExpertTrace]]:
  """Every layer over the step's rows; returns the residual stream, the caches and what experts did."""
  x = embedded(decoder, jnp.where(step.row_token >= 0, step.row_token, state.token[step.row_slot]))
  rotations = rotations_at(decoder.spec, step.row_position[:, None], rows.lengths)
  say = _Say(present, step.row_kind != ADAPTIVE, step.row_weight, step.limit)
  caches, traces = [], []
  for index, layer in enumerate(decoder.layers):
    with jax.named_scope(f"layer_{index}"):
      rotation = rotations[layer.attention.spec.rotary]
      x, cache, trace = _layer(layer, x, state.cache[index], rows, rotation, say, settings, decoder.spec)
    caches.append(cache)
    if trace is not None:
      traces.append(trace)
  return x, tuple(caches), traces


class _Say(NamedTuple):
  """What rows may do in the choice of experts: present, served with their own experts, weight, and the limit."""

  valid: Bool[Array, "T"]
  own: Bool[Array, "T"]
  weight: Float32[Array, "T"]
  limit: Int32[Array, ""]


@functools.partial(jax.jit, static_argnames=("settings", "spec"))
def _layer(
  layer: Layer,
  x_TD: Float[Array, "T D"],
  cache: LayerCache,
  rows: PagedRows,
  rotation: Rotation,
  say: _Say,
  settings: StepSettings,
  spec: DecoderSpec,
) -> tuple[Float[Array, "T D"], LayerCache, ExpertTrace | None]:
  """One layer. Layers of one kind have equal shapes, so `jax.jit` traces each kind once."""

  def attend(attention: AttentionPart, projected: Any) -> tuple[jax.Array, LayerCache]:
    return attention.attend_paged(projected, rotation, cache, rows)

  # Steps that only decode are nearly full.
  choice = ExpertChoice(say.valid, _route(rows, say, settings), used=None if rows.tiles is None else rows.used)
  x_TD, kept, trace = run_layer(layer, x_TD, attend, choice, residual_multiplier=spec.residual_multiplier)
  return x_TD, cast(LayerCache, kept), trace


def _route(rows: PagedRows, say: _Say, settings: StepSettings) -> Route:
  """How a layer's experts are chosen."""
  policy = settings.policy
  if policy is None:
    return OWN_ROUTE
  terms = {"own": say.own, "weight": say.weight, "limit": say.limit if settings.limited else None}

  def route(logits: RouterLogits, top_k: int, /, **rule: Any) -> TiledRouting:
    if policy.experts_per_token(top_k) == top_k:
      return lynx_route_tiles(logits, top_k, policy=policy, **terms, **rule)
    # Rows that run fewer experts cannot share a call with rows that run all of theirs.
    return lynx_route_tiles(logits, top_k, policy=None if rows.tiles is not None else policy, **rule)

  return route


def _samplers(step: StepArrays) -> Samplers:
  return Samplers(
    temperature=step.draw_temperature,
    top_k=step.draw_top_k,
    top_p=step.draw_top_p,
    min_p=step.draw_min_p,
    key=jax.lax.bitcast_convert_type(step.draw_key, jnp.uint32),
  )


def _logit_edits(step: StepArrays, edits: StepEdits, vocab: int) -> LogitEdits:
  return LogitEdits(
    changed=step.changed > 0,
    changes=functools.partial(unpack_changes, edits.changes, step.draw_slot),
    masked=step.masked > 0,
    allowed=functools.partial(unpack_masks, edits.masks, step.draw_slot, vocab),
  )


def _likely(logits_RV: Float32[Array, "R V"], ids: Int32[Array, "R"], wanted: Int32[Array, "R"]) -> Likely:
  """Log-probabilities of `ids`, and of the likeliest tokens, computed only if some row wants them (`wanted` > 0)."""
  count, most = ids.shape[0], min(MOST_TOP_LOGPROBS, logits_RV.shape[1])

  def of_chosen(_: None) -> jax.Array:
    chosen = jnp.take_along_axis(logits_RV, ids[:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits_RV, axis=1)

  def likeliest(_: None) -> tuple[jax.Array, jax.Array]:
    values, top_ids = jax.lax.top_k(logits_RV, most)
    return top_ids.astype(jnp.int32), values - jax.nn.logsumexp(logits_RV, axis=1)[:, None]

  def none(_: None) -> tuple[jax.Array, jax.Array]:
    return jnp.zeros((count, most), jnp.int32), jnp.zeros((count, most), jnp.float32)

  chosen = jax.lax.cond(jnp.any(wanted >= 0), of_chosen, lambda _: jnp.zeros((count,), jnp.float32), None)
  return Likely(chosen, *jax.lax.cond(jnp.any(wanted > 0), likeliest, none, None))


def _prompt_logprobs(decoder: Decoder, hidden_TD: Float[Array, "T D"], target: Int32[Array, "T"], block: int) -> Likely:
  """Log-probabilities of the prompts' next tokens, `block` rows at a time, if there is any target."""
  rows, most = hidden_TD.shape[0], min(MOST_TOP_LOGPROBS, decoder.spec.vocab)
  blocks = -(-rows // block)
  room = blocks * block - rows
  hidden_TD, target = jnp.pad(hidden_TD, [(0, room), (0, 0)]), jnp.pad(target, (0, room), constant_values=-1)
  # How many rounds there are is data, so that XLA puts the loop into the step's CUDA graph.
  rounds = jnp.where(jnp.any(target >= 0), blocks, 0)

  def of_block(carry: tuple[jax.Array, Likely]) -> tuple[jax.Array, Likely]:
    index, found = carry

    def part(x: jax.Array) -> jax.Array:
      return jax.lax.dynamic_slice_in_dim(x, index * block, block)

    wanted = jnp.where(part(target) >= 0, MOST_TOP_LOGPROBS, -1)
    likely = _likely(decoder.logits(part(hidden_TD)), jnp.maximum(part(target), 0), wanted)

    def put(whole: jax.Array, one: jax.Array) -> jax.Array:
      return jax.lax.dynamic_update_slice_in_dim(whole, one, index * block, axis=0)

    return index + 1, jax.tree.map(put, found, likely)

  zeros = functools.partial(jnp.zeros, (blocks * block, most))
  none = Likely(jnp.zeros((blocks * block,), jnp.float32), zeros(jnp.int32), zeros(jnp.float32))
  _, found = jax.lax.while_loop(lambda carry: carry[0] < rounds, of_block, (jnp.zeros((), jnp.int32), none))
  return jax.tree.map(lambda x: x[:rows], found)


def _counts(
  traces: list[ExpertTrace], valid: Bool[Array, "T"], kind: Int32[Array, "T"], settings: StepSettings
) -> LayerCounts:
  """What each MoE layer's routing read."""
  decodes = kind > CHUNK
  rows = jnp.sum(valid & decodes, dtype=jnp.int32)
  if not traces:
    return LayerCounts(rows, jnp.zeros((0,), jnp.int32))
  compared = settings.policy is not None
  readers = expert_readers(traces, kind, valid, compared=compared) if settings.readers else None
  if not settings.stats:
    active = jnp.stack([jnp.sum(trace.routing.active, dtype=jnp.int32) for trace in traces])
    return LayerCounts(rows, active, readers=readers)
  own, active, retained = (jnp.stack(part) for part in zip(*(trace.stats(valid) for trace in traces), strict=True))
  counted = (valid & decodes)[None]
  mass, worst = jnp.where(counted, retained, 0.0).sum(axis=1), jnp.where(counted, retained, 1.0).min(axis=1)
  return LayerCounts(rows, active, own, mass, worst, readers)


def _experts(traces: list[ExpertTrace]) -> Int16[Array, "T M K"]:
  """The experts of each row; -1 fills up the layers in which rows run fewer."""
  most = max(trace.routing.ids.shape[1] for trace in traces)

  def filled(ids: jax.Array) -> jax.Array:
    return jnp.pad(ids, [(0, 0), (0, most - ids.shape[1])], constant_values=-1)

  return jnp.stack([filled(trace.routing.ids) for trace in traces], axis=1).astype(jnp.int16)
