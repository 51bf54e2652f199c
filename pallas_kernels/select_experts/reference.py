"""Each rule as its definition has it: sorts and unions over whole arrays, one step after the other."""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.select_experts.reference_router import best_of_kept, scored, weights_of
from pallas_kernels.select_experts.router import Router
from pallas_kernels.select_experts.rules import (
  VOTE_BINS,
  AffinityBins,
  FirstChoices,
  Limited,
  OwnExperts,
  Rule,
  WorthReading,
  experts_run,
)


def select_experts_reference(
  logits: jax.Array,
  valid: jax.Array,
  selection_bias: jax.Array | None = None,
  *,
  top_k: int,
  rule: Rule,
  router: Router,
) -> tuple[jax.Array, jax.Array, jax.Array, Tiles]:
  """`select_experts` in many steps."""
  experts, run = logits.shape[1], experts_run(rule, top_k)
  rows = scored(logits, valid, selection_bias, top_k, router)
  union = functools.partial(_union, valid=valid, experts=experts)
  kept = jnp.ones((experts,), bool)
  if not isinstance(rule, OwnExperts):
    kept = _kept(rows.affinity, rows.probs, rows.own, valid, top_k, rule)
    unit = 1 << (((2**31 - 1) // len(logits)).bit_length() - 1)
    popularity = jnp.sum(jnp.where(valid[:, None], jnp.round(rows.probs * unit).astype(jnp.int32), 0), axis=0)
    popular = jnp.lexsort((-popularity, kept))
    kept = kept.at[popular].set(kept[popular] | (jnp.arange(experts) < top_k - jnp.sum(kept)))
    kept |= jnp.sum(kept) >= jnp.sum(union(rows.own))
  ids = best_of_kept(rows, kept, run)
  weights = weights_of(rows, ids, kept, router)
  active = union(ids)
  ids = jnp.where(valid[:, None], ids, jnp.argsort(~active, stable=True)[None, :run]).astype(jnp.int32)
  weights = jnp.where(valid[:, None], weights, 0.0)
  return ids, weights, active, tile_rows(ids, valid, experts, DECODE_TILE)


def _union(ids: jax.Array, valid: jax.Array, experts: int) -> jax.Array:
  named = jnp.where(valid[:, None], ids, experts)
  return jnp.zeros((experts,), bool).at[named].set(True, mode="drop")


def _kept(
  scores: jax.Array,
  probs: jax.Array,
  own: jax.Array,
  valid: jax.Array,
  top_k: int,
  rule: Rule,
) -> jax.Array:
  experts = scores.shape[1]
  if isinstance(rule, OwnExperts):
    return jnp.ones((experts,), bool)
  if isinstance(rule, Limited):
    kept = _kept(scores, probs, own, valid, top_k, rule.rule)
    fits = jnp.sum(kept) <= rule.most
    return jnp.where(fits, kept, _cover(probs, own, valid, top_k, 1.0, kept, jnp.where(fits, 0, rule.most)))
  if isinstance(rule, FirstChoices):
    return _union(own[:, : rule.k0], valid, experts)
  if isinstance(rule, AffinityBins):
    below = scores - jnp.max(scores, axis=1, keepdims=True)
    lowest = 2**24 // experts - 1 if rule.beta is None else rule.beta
    depth = jnp.minimum(-jnp.ceil(rule.alpha * below), lowest)
    # What a row may not choose lies below its lowest bin, and votes as that.
    depth = jnp.where(scores <= -jnp.finfo(jnp.float32).max / 2, lowest + 1, depth)
    # The last bin's count follows from the others.
    bins = range((VOTE_BINS if rule.beta is None else min(VOTE_BINS, rule.beta + 1)) - 1)
    counts = [-jnp.sum((depth == at) & valid[:, None], axis=0) for at in bins]
    ranked = jax.vmap(lambda row: jnp.lexsort((*counts[::-1], row)))(depth)
    return _union(ranked[:, :top_k], valid, experts)
  if isinstance(rule, WorthReading):
    return _worth_reading(probs, own, valid, top_k, rule)
  return _cover(probs, own, valid, top_k, rule.tau, jnp.ones((experts,), bool), experts)


def _worth_reading(probs: jax.Array, own: jax.Array, valid: jax.Array, top_k: int, rule: WorthReading) -> jax.Array:
  """Experts by descending saving while that is worth the price, the loss of every candidate set computed afresh."""
  rows, experts = probs.shape
  mass = jnp.sum(jnp.take_along_axis(probs, own, axis=1), axis=1, keepdims=True)
  weight = jnp.where(valid[:, None], probs / mass, 0.0)
  squared = jnp.where(jax.vmap(lambda ids: jnp.isin(jnp.arange(experts), ids))(own), weight**2, 0.0)
  unit = float(1 << (29 - (rows - 1).bit_length()))

  def fixed(x: jax.Array) -> jax.Array:
    return jnp.floor(x * unit + 0.5).astype(jnp.int32)

  def loss(taken: jax.Array) -> jax.Array:
    retained = jnp.sort(jnp.where(taken[None, :], weight, 0.0), axis=1)[:, -top_k:].sum(axis=1)
    lost = jnp.sum(jnp.where(taken[None, :], 0.0, squared), axis=1) + (1.0 - retained) ** 2
    return jnp.where(valid, lost, 0.0)

  count = jnp.sum(_union(own, valid, experts)).astype(jnp.float32)
  price = rule.share * jnp.sum(fixed(squared)).astype(jnp.float32) / jnp.maximum(count, 1.0)

  def add(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    taken, _ = carry
    saved = jax.vmap(lambda e: jnp.sum(fixed(loss(taken) - loss(taken.at[e].set(True)))))(jnp.arange(experts))
    saved = jnp.where(taken, -1, saved)
    more = (jnp.max(saved) > 0) & (jnp.max(saved).astype(jnp.float32) >= price)
    return jnp.where(more, taken.at[jnp.argmax(saved)].set(True), taken), more

  start = jnp.zeros((experts,), bool), jnp.array(True)
  return jax.lax.while_loop(lambda carry: carry[1], add, start)[0]


def _cover(
  probs: jax.Array,
  own: jax.Array,
  valid: jax.Array,
  top_k: int,
  tau: float,
  candidates: jax.Array,
  most: jax.Array | int,
) -> jax.Array:
  """Candidates by descending gain until no row is short or `most` are taken, in fixed point.

  Gains are cut to 31 bits' worth of rows.
  """
  fixed = jnp.floor(probs * 2.0**30).astype(jnp.int32)
  shift = (len(fixed) - 1).bit_length()
  mass = jnp.sum(jnp.take_along_axis(fixed, own, axis=1), axis=1)
  floor = jnp.where(valid, mass - jnp.floor((1.0 - tau) * mass.astype(jnp.float32)).astype(jnp.int32), 0)

  def best(taken: jax.Array) -> jax.Array:
    return jnp.sort(jnp.where(taken[None, :], fixed, 0), axis=1)[:, -top_k:]

  def short(taken: jax.Array) -> jax.Array:
    return jnp.any(best(taken).sum(axis=1) < floor) & (jnp.sum(taken) < most)

  def add(taken: jax.Array) -> jax.Array:
    deficit = jnp.maximum(floor - best(taken).sum(axis=1), 0)
    added = jnp.clip(fixed - best(taken)[:, :1], 0, deficit[:, None])
    gain = jnp.sum((added + ((1 << shift) - 1)) >> shift, axis=0)
    return taken.at[jnp.argmax(jnp.where(candidates & ~taken, gain, -1))].set(True)

  return jax.lax.while_loop(short, add, jnp.zeros((fixed.shape[1],), bool))
