"""A router's rule as its definition has it, over whole arrays: what rows choose by, and what experts weigh."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.select_experts.router import SIGMOID_GUARD, SPARSEMIXER_EPS, Router

LOWEST = -float(jnp.finfo(jnp.float32).max) / 2


class Scored(NamedTuple):
  """A batch under its router.

  Attributes:
    logits: [T, E], finite, zero in rows that do not count.
    choice: [T, E], what experts are chosen by.
    usable: [T, E], whether the expert is in a group that the row may use.
    affinity: [T, E], how far apart experts lie in the order of the choice, in nats; LOWEST of those not usable.
    probs: [T, E], what experts are worth to the row.
    own: [T, K], the experts that the model chooses.
    total: [T], what those weigh in all, but for the scale.
  """

  logits: jax.Array
  choice: jax.Array
  usable: jax.Array
  affinity: jax.Array
  probs: jax.Array
  own: jax.Array
  total: jax.Array


def scored(logits: jax.Array, valid: jax.Array, selection_bias: jax.Array | None, top_k: int, router: Router) -> Scored:
  """Scores of the rows, free of what those that do not count hold."""
  logits = jnp.clip(logits.astype(jnp.float32), LOWEST, -LOWEST)
  logits = jnp.where(valid[:, None] & (logits != 0.0), logits, 0.0)
  choice = logits if selection_bias is None else jax.nn.sigmoid(logits) + selection_bias[None, :]
  usable = jnp.ones(logits.shape, bool)
  if router.groups > 1:
    by_gate = router.group_score == "top2_sum" and selection_bias is None
    usable = _in_best_groups(_gates(logits, router) if by_gate else choice, router)
  preferred = ranked(jnp.where(usable, -choice, jnp.inf))
  own = preferred[:, :top_k]
  affinity = logits
  if selection_bias is not None:
    gates = choice - selection_bias[own[:, :1]]
    inside = jnp.clip(gates, jnp.finfo(jnp.float32).tiny, 1.0 - 2.0**-24)
    affinity = jnp.log(inside) - jnp.log1p(-inside)
  probs = jnp.where(usable, jax.nn.softmax(_log_gates(logits, router), axis=1), 0.0)
  if selection_bias is not None:
    by_rank = jnp.take_along_axis(probs, preferred, axis=1)
    capped = jnp.where(jnp.arange(logits.shape[1])[None, :] < top_k, by_rank, jax.lax.cummin(by_rank, axis=1))
    probs = jnp.take_along_axis(capped, jnp.argsort(preferred, axis=1), axis=1)
  return Scored(
    logits=logits,
    choice=choice,
    usable=usable,
    affinity=jnp.where(usable, affinity, LOWEST),
    probs=probs,
    own=own,
    total=_total(logits, own, router),
  )


def ranked(keys: jax.Array) -> jax.Array:
  """Experts of each row by ascending key, ties to the lowest index."""
  return jnp.argsort(keys, axis=1, stable=True)


def best_of_kept(rows: Scored, kept: jax.Array, run: int) -> jax.Array:
  """Each row's experts [T, K] among `kept`, in the model's order, those that it may not use after all others."""
  # A masked expert is no better than one of another group, where the rows' own routing does not stand.
  usable = rows.usable & (kept.all() | (rows.affinity > LOWEST))
  return jax.vmap(lambda choice, usable: jnp.lexsort((-choice, ~usable, ~kept)))(rows.choice, usable)[:, :run]


def weights_of(rows: Scored, ids: jax.Array, kept: jax.Array, router: Router) -> jax.Array:
  """Weights [T, K], in proportion to gates, in all what the model gives the row's own experts."""
  if router.unit_weights:
    return jnp.ones(ids.shape, jnp.float32)
  if router.scoring == "sparsemixer":
    shares = _sparse_mixer(rows.logits, ids, kept)
    shares /= jnp.sum(shares, axis=1, keepdims=True)
  else:
    shares = jax.nn.softmax(jnp.take_along_axis(_log_gates(rows.logits, router), ids, axis=1), axis=1)
  return shares * rows.total[:, None] * router.scale


def _total(logits: jax.Array, own: jax.Array, router: Router) -> jax.Array:
  if router.scoring == "sparsemixer":
    return jnp.sum(_sparse_mixer(logits, own, jnp.ones(logits.shape[1], bool)), axis=1)
  total = jnp.sum(jnp.take_along_axis(_gates(logits, router), own, axis=1), axis=1)
  if not router.renormalize:
    return total
  return total / (total + SIGMOID_GUARD) if router.scoring == "sigmoid" else jnp.ones_like(total)


def _in_best_groups(scores: jax.Array, router: Router) -> jax.Array:
  rows, experts = scores.shape
  members = jnp.sort(scores.reshape(rows, router.groups, -1), axis=2)
  of_group = members[:, :, -1] if router.group_score == "max" else members[:, :, -1] + members[:, :, -2]
  kept = ranked(-of_group)[:, : router.groups_kept]
  return jax.vmap(lambda kept: jnp.isin(jnp.arange(experts) // (experts // router.groups), kept))(kept)


def _gates(logits: jax.Array, router: Router) -> jax.Array:
  return jax.nn.sigmoid(logits) if router.scoring == "sigmoid" else jax.nn.softmax(logits, axis=1)


def _log_gates(logits: jax.Array, router: Router) -> jax.Array:
  return jax.nn.log_sigmoid(logits) if router.scoring == "sigmoid" else logits


def _sparse_mixer(logits: jax.Array, ids: jax.Array, kept: jax.Array) -> jax.Array:
  """Of each expert in turn, its softmax among those of `kept` that are left and close to it (arXiv 2409.12136)."""
  left = jnp.broadcast_to(kept[None, :], logits.shape)
  weights = []
  for expert in ids.T:
    top = jnp.take_along_axis(logits, expert[:, None], axis=1)
    size = jnp.maximum(jnp.abs(logits), top)
    close = left & ((top - logits) / jnp.where(size > 0, size, 1.0) <= 2 * SPARSEMIXER_EPS)
    weights.append(1.0 / jnp.sum(jnp.where(close, jnp.exp(logits - top), 0.0), axis=1))
    left &= jnp.arange(logits.shape[1])[None, :] != expert[:, None]
  return jnp.stack(weights, axis=1)
