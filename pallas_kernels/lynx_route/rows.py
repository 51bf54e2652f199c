"""A block of rows in registers: read, scored by the router, ranked and weighed.

A row's best experts are taken one a round, by (key, lowest index); `place` [T, E] holds the round in which an expert
was taken, and the number of rounds where it was not. Rows and experts are padded to powers of two. If the router has
groups, each group is padded, so that a group is a run of a whole axis.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.lynx_route.arguments import RouteArrays
from pallas_kernels.lynx_route.router import SIGMOID_GUARD, SPARSEMIXER_EPS, Router
from pallas_kernels.lynx_route.scores import LARGEST_GATE, LOWEST, SMALLEST_GATE
from pallas_kernels.lynx_route.terms import heaviest, says

LARGEST = -LOWEST
LEAST_INT = -(2**31)


def padded_experts(experts: int, groups: int) -> int:
  """E with every group, and their number, padded to a power of two."""
  return pl.next_power_of_2(groups) * pl.next_power_of_2(experts // groups)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
  """T rows of E experts in groups, with a bias of the choice or not, and how many rows are taken at a time."""

  rows: int
  experts: int
  groups: int
  biased: bool
  block: int

  @property
  def padded(self) -> int:
    """E as places of the last axis."""
    return padded_experts(self.experts, self.groups)

  @property
  def blocks(self) -> int:
    """Blocks of rows."""
    return pl.cdiv(self.rows, self.block)

  def place(self) -> jax.Array:
    """Places of the last axis, [E]."""
    return jnp.arange(self.padded, dtype=jnp.int32)

  def expert(self) -> jax.Array:
    """Indices of the experts, ascending but for places that hold none, which are past the last, [E]."""
    place = self.place()
    if self.groups == 1:
      return place
    size, width = self.experts // self.groups, self.padded // pl.next_power_of_2(self.groups)
    group, member = place // width, place % width
    return jnp.where((member < size) & (group < self.groups), group * size + member, self.experts)

  def each(self, body: Callable[[Any, Any], Any], start: Any) -> Any:
    """Folds `body(block, carry)` over the blocks of rows."""
    return body(0, start) if self.blocks == 1 else each_index(self.blocks, body, start)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
  """A block of rows. All float32 [T, E] are -inf where a place holds no expert.

  Attributes:
    index: [T].
    valid: [T], which count.
    alone: [T], which of those run their own experts whatever the others choose; None for none.
    voters: [T], which have a say in the keep set.
    say: int32 [T], how much; None where all are alike.
    logits: [T, E], the router's, finite.
    choice: [T, E], what experts are chosen by.
    own: [T, E], the same, -inf for experts of groups that the row may not use.
    bias: [E], that of the choice, or None.
  """

  index: jax.Array
  valid: jax.Array
  alone: jax.Array | None
  voters: jax.Array
  say: jax.Array | None
  logits: jax.Array
  choice: jax.Array
  own: jax.Array
  bias: jax.Array | None


def heaviest_row(batch: Batch, refs: RouteArrays) -> jax.Array | None:
  """The largest weight of a row that does not run its own experts whatever the others choose; None without weights."""
  if refs.weight is None:
    return None
  row = jnp.arange(pl.next_power_of_2(batch.rows), dtype=jnp.int32)
  row_in = jnp.minimum(row, batch.rows - 1)
  adaptive = (row < batch.rows) & plgpu.load(refs.valid.at[row_in])
  if refs.own is not None:
    adaptive &= ~plgpu.load(refs.own.at[row_in])
  return heaviest(plgpu.load(refs.weight.at[row_in]), adaptive)


def read(batch: Batch, router: Router, refs: RouteArrays, top_weight: jax.Array | None, block: Any) -> Rows:
  """The rows of a block, free of what those that do not count hold; `top_weight` is the `heaviest_row`."""
  row, expert = block * batch.block + jnp.arange(batch.block, dtype=jnp.int32), batch.expert()
  # Unclamped where it can be: the compiler then knows that they lie side by side, and gives a warp whole rows.
  expert_in = expert if batch.padded == batch.experts else jnp.minimum(expert, batch.experts - 1)
  row_in = jnp.minimum(row, batch.rows - 1)
  inside = (expert < batch.experts)[None, :]
  valid = (row < batch.rows) & plgpu.load(refs.valid.at[row_in])
  logits = plgpu.load(refs.logits.at[row_in[:, None], expert_in[None, :]]).astype(jnp.float32)
  clipped = jnp.minimum(jnp.maximum(logits, -LARGEST), LARGEST)
  # -0.0 becomes 0.0; what invalid rows hold, NaN among it, goes.
  logits = jnp.where(valid[:, None] & (clipped != 0.0), clipped, 0.0)
  logits = choice = jnp.where(inside, logits, -jnp.inf)
  bias = None
  if refs.selection_bias is not None:
    bias = plgpu.load(refs.selection_bias.at[expert_in])
    choice = jnp.where(inside, jax.nn.sigmoid(logits) + bias[None, :], -jnp.inf)
  own = choice
  if router.groups > 1:
    by_gate = router.group_score == "top2_sum" and bias is None
    scored = jnp.where(inside, gates(logits, router), -jnp.inf) if by_gate else choice
    own = jnp.where(_in_best_groups(batch, scored, router), choice, -jnp.inf)
  alone = say = None
  voters = valid
  if refs.own is not None:
    alone = valid & plgpu.load(refs.own.at[row_in])
    voters = valid & ~alone
  if refs.weight is not None:
    say = says(plgpu.load(refs.weight.at[row_in]), voters, top_weight)
    voters &= say > 0
  return Rows(
    index=row, valid=valid, alone=alone, voters=voters, say=say, logits=logits, choice=choice, own=own, bias=bias
  )


def _in_best_groups(batch: Batch, scored: jax.Array, router: Router) -> jax.Array:
  """Whether an expert is in one of the row's best groups, ties to the lowest index, [T, E]."""
  rows, groups = batch.block, pl.next_power_of_2(batch.groups)
  by_group = scored.reshape(rows, groups, batch.padded // groups)
  score = jnp.max(by_group, axis=2)
  if router.group_score == "top2_sum":
    member = jnp.arange(by_group.shape[2], dtype=jnp.int32)[None, None, :]
    first = largest_at(by_group, 2)[:, :, None]
    score += jnp.max(jnp.where(member == first, -jnp.inf, by_group), axis=2)
  taken = best((score,), None, router.groups_kept)
  return jnp.broadcast_to(taken[:, :, None], by_group.shape).reshape(scored.shape) < router.groups_kept


def count(flags: jax.Array, axis: int | None = None) -> jax.Array:
  """How many are set, along an axis or in all; int32 also where `jax_enable_x64` makes sums int64."""
  return jnp.sum(flags.astype(jnp.int32), axis=axis, dtype=jnp.int32)


def largest_at(values: jax.Array, axis: int) -> jax.Array:
  """The place of the largest value along an axis, as int32."""
  return jax.lax.argmax(values, axis, jnp.int32)


def each_index(length: int, body: Callable[[jax.Array, Any], Any], start: Any) -> Any:
  """Folds `body(index, carry)` over the indices below `length`, with an int32 index."""

  def narrow(index: jax.Array, carry: Any) -> Any:
    return body(jax.lax.convert_element_type(index, jnp.int32), carry)

  return jax.lax.fori_loop(0, length, narrow, start)


def best(keys: tuple[jax.Array, ...], allowed: jax.Array | None, rounds: int) -> jax.Array:
  """The round in which each row takes each expert, by the largest keys, then the lowest index.

  `allowed` [T, E], or [1, E] for all rows alike, says which experts may be taken; None is every one.
  """
  # A warp finds the largest of its integers in one instruction; of floats, or of pairs, it takes ten.
  keys = tuple(_ordered(key) for key in keys)
  shape = jnp.broadcast_shapes(*(key.shape for key in keys))
  expert = jnp.arange(shape[1], dtype=jnp.int32)[None, :]

  def take(index: Any, place: jax.Array) -> jax.Array:
    open_ = place == rounds
    if allowed is not None:
      open_ &= allowed
    for key in keys:
      masked = jnp.where(open_, key, LEAST_INT)
      open_ &= masked == jnp.max(masked, axis=1)[:, None]
    first = jnp.min(jnp.where(open_, expert, shape[1]), axis=1)
    return jnp.where(expert == first[:, None], index, place)

  return each_index(rounds, take, jnp.full(shape, rounds, jnp.int32))


def _ordered(key: jax.Array) -> jax.Array:
  """As an int32 that compares like it, more than `LEAST_INT`."""
  if not jnp.issubdtype(key.dtype, jnp.floating):
    return key
  bits = jax.lax.bitcast_convert_type(key, jnp.int32)
  return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def rows_with(rows: jax.Array, flags: jax.Array) -> jax.Array:
  """How many of the `rows` [T] have each flag of [T, E], [E]."""
  return count(flags & rows[:, None], axis=0)


def own_places(rows: Rows, top_k: int) -> jax.Array:
  """The round in which each row takes each of its own experts, [T, E]."""
  return best((rows.own,), None, top_k)


def chosen_places(rows: Rows, router: Router, kept: jax.Array | None, experts: int, run: int) -> jax.Array:
  """The round in which each row takes each of its experts among `kept`, in the model's order, [T, E].

  Experts of groups that the row may not use come last, and only fill a row.
  """
  open_ = _open_to(rows, kept)
  if kept is None or router.groups == 1:
    return best((rows.own,), open_, run)
  allowed = rows.own != -jnp.inf
  if rows.bias is None:
    # A masked expert is no better than one of another group, but where all are kept: rows run their own.
    every = count(kept) == experts
    every = every if rows.alone is None else every | rows.alone[:, None]
    allowed &= every | (rows.logits > -LARGEST)
  return best((allowed.astype(jnp.int32), rows.choice), open_, run)


def _open_to(rows: Rows, kept: jax.Array | None) -> jax.Array | None:
  """The experts that each row may use: those of `kept`, or all for rows that run their own, [T, E] or [1, E]."""
  if kept is None or rows.alone is None:
    return None if kept is None else kept[None, :]
  return kept[None, :] | rows.alone[:, None]


def affinity(batch: Batch, rows: Rows, router: Router) -> jax.Array:
  """How far apart a row's experts lie, in nats, in the order of the choice; -LARGEST or less: the row may not.

  With a selection bias, the logits of gates that all have the bias of the row's first expert, [T, E].
  """
  if rows.bias is not None:
    first = batch.place()[None, :] == largest_at(rows.own, 1)[:, None]
    shift = jnp.sum(jnp.where(first, rows.bias[None, :], 0.0), axis=1)
    inside = jnp.minimum(jnp.maximum(rows.own - shift[:, None], SMALLEST_GATE), LARGEST_GATE)
    return jnp.where(rows.own == -jnp.inf, -LARGEST, jnp.log(inside) - jnp.log1p(-inside))
  return rows.logits if router.groups == 1 else jnp.where(rows.own == -jnp.inf, -LARGEST, rows.logits)


def gates(logits: jax.Array, router: Router) -> jax.Array:
  """Zero where there is no expert."""
  if router.scoring == "sigmoid":
    return jax.nn.sigmoid(logits)
  powers = _powers(logits, router)
  return powers / jnp.sum(powers, axis=1)[:, None]


def _log_gates(logits: jax.Array, router: Router) -> jax.Array:
  """Up to a constant of each row."""
  if router.scoring != "sigmoid":
    return logits
  return jnp.minimum(logits, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))


def _powers(logits: jax.Array, router: Router) -> jax.Array:
  """Gates over a row's largest, zero where there is no expert."""
  log_gates = _log_gates(logits, router)
  return jnp.exp(log_gates - jnp.max(log_gates, axis=1)[:, None])


def worths(batch: Batch, rows: Rows, router: Router, top_k: int) -> tuple[jax.Array, jax.Array]:
  """What experts are worth to a row, [T, E], and what that is a share of, [T].

  Gates, none outside of the row's groups, and with a selection bias no more than an expert's that the row prefers.
  """
  powers = _powers(rows.logits, router)
  total = jnp.sum(powers, axis=1)
  if router.groups > 1:
    powers = jnp.where(rows.own == -jnp.inf, 0.0, powers)
  return powers if rows.bias is None else _capped(batch, rows, powers, top_k), total


def _capped(batch: Batch, rows: Rows, worth: jax.Array, top_k: int) -> jax.Array:
  """`worth`, where none but the own `top_k`'s exceeds that of an expert that the row prefers."""
  place = batch.place()[None, :]

  def lower(index: Any, cap: jax.Array) -> jax.Array:
    here = place == index
    other = jnp.max(jnp.where(here, rows.own, -jnp.inf), axis=1)[:, None]
    preferred = (other > rows.own) | ((other == rows.own) & (index < place))
    return jnp.where(preferred, jnp.minimum(cap, jnp.sum(jnp.where(here, worth, 0.0), axis=1)[:, None]), cap)

  cap = each_index(batch.padded, lower, worth)
  return jnp.where(own_places(rows, top_k) < top_k, worth, cap)


def weights(
  rows: Rows, place: jax.Array, kept: jax.Array | None, router: Router, *, run: int, top_k: int, alone: bool
) -> jax.Array:
  """Weights of a row's experts, in proportion to their gates, in all what the model gives the row's own `top_k`.

  Args:
    rows: the block.
    place: the round in which each expert was taken.
    kept: the experts that rows may use; None is every expert.
    router: the model's rule.
    run: experts of a row.
    top_k: experts of a row by the model's own rule.
    alone: whether every row runs its own experts, whatever the others choose.
  """
  if router.unit_weights:
    return jnp.ones(place.shape, jnp.float32)
  weights = _unscaled(rows, place, kept, router, run, top_k, alone and run == top_k)
  return weights if router.scale == 1 else weights * router.scale


def _unscaled(
  rows: Rows, place: jax.Array, kept: jax.Array | None, router: Router, run: int, top_k: int, own_run: bool
) -> jax.Array:
  # Rows that run their own experts have the model's own weights, bit for bit.
  alone = None if rows.alone is None else rows.alone[:, None]
  if router.scoring == "sparsemixer":
    weights = _sparse_mixer(rows, place, kept, run)
    if own_run:
      return weights
    shares = weights / jnp.sum(weights, axis=1)[:, None]
    own_sum = jnp.sum(_sparse_mixer(rows, own_places(rows, top_k), None, top_k), axis=1)
    weights_of_kept = shares * own_sum[:, None]
    return weights_of_kept if alone is None else jnp.where(alone, weights, weights_of_kept)
  if own_run and not router.renormalize:
    return gates(rows.logits, router)
  chosen, log_gates = place < run, _log_gates(rows.logits, router)
  # Gates, which those rows weigh by if they are not divided by their sum, are over the best of all experts.
  among = chosen
  if alone is not None and router.scoring == "softmax" and not router.renormalize:
    among = chosen | alone
  top = jnp.max(jnp.where(among, log_gates, -jnp.inf), axis=1)
  powers = jnp.where(chosen, jnp.exp(log_gates - top[:, None]), 0.0)
  total = jnp.sum(powers, axis=1)
  if router.renormalize and router.scoring == "softmax":
    return powers / total[:, None]
  own = chosen if own_run else own_places(rows, top_k) < top_k
  if router.scoring == "sigmoid":
    mass = jnp.sum(jnp.where(own, gates(rows.logits, router), 0.0), axis=1)
    mass = mass / (mass + SIGMOID_GUARD) if router.renormalize else mass
    weights_of_kept = powers / total[:, None] * mass[:, None]
    if alone is None or router.renormalize:
      return weights_of_kept
    return jnp.where(alone, gates(rows.logits, router), weights_of_kept)
  all_powers = _powers(rows.logits, router)
  sum_of_all = jnp.sum(all_powers, axis=1)
  mass = jnp.sum(jnp.where(own, all_powers, 0.0), axis=1) / sum_of_all
  if rows.alone is not None:
    total, mass = jnp.where(rows.alone, sum_of_all, total), jnp.where(rows.alone, 1.0, mass)
  return powers / total[:, None] * mass[:, None]


def _sparse_mixer(rows: Rows, place: jax.Array, kept: jax.Array | None, run: int) -> jax.Array:
  """Each expert's softmax among those of `kept` that are not taken before it and close to it, zero of others."""
  open_ = _open_to(rows, kept)

  def weigh(index: Any, weights: jax.Array) -> jax.Array:
    here = place == index
    top = jnp.max(jnp.where(here, rows.logits, -jnp.inf), axis=1)[:, None]
    size = jnp.maximum(jnp.abs(rows.logits), top)
    far = (top - rows.logits) / jnp.where(size > 0, size, 1.0) > 2 * SPARSEMIXER_EPS
    among = (place >= index) & ~far
    if open_ is not None:
      among &= open_
    weight = 1.0 / jnp.sum(jnp.exp(jnp.where(among, rows.logits - top, -jnp.inf)), axis=1)
    return jnp.where(here, weight[:, None], weights)

  return each_index(run, weigh, jnp.zeros(place.shape, jnp.float32))
