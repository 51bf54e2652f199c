"""The kernel's keep sets: what each policy keeps, and then what joins, limits or fills any set.

Sets are [E], as flags or as int32 of 0 and 1 where a loop carries them. Sums over rows are of integers, as in plain
JAX, so that both choose the same experts.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.triton_backend import pl
from pallas_kernels.lynx_route.auto import Auto
from pallas_kernels.lynx_route.lynx import Lynx, counted_bins, lowest_bin
from pallas_kernels.lynx_route.mass_floor import UNIT, MassFloor
from pallas_kernels.lynx_route.policy import RoutingPolicy
from pallas_kernels.lynx_route.rivals import OEA
from pallas_kernels.lynx_route.router import Router
from pallas_kernels.lynx_route.rows import (
  LARGEST,
  Batch,
  Rows,
  affinity,
  best,
  count,
  each_index,
  own_places,
  rows_with,
  worths,
)
from pallas_kernels.lynx_route.terms import WHOLE_SAY, best_per_cost, total_cost, weighted

# Policies that add experts one by one, and need all rows in registers at once.
GREEDY = (MassFloor, Auto)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
  """What a keep set is computed from.

  Attributes:
    batch: sizes.
    router: the model's own rule.
    top_k: experts of a row by that rule.
    run: experts that a row runs.
    read: the rows of a block.
    mixed: whether some rows run their own experts whatever the others choose.
    weighed: whether rows have more or less say.
    cost: int32 [E], what reading an expert costs; None where all cost the same.
    limit: int32, the most that the batch may read, in units of `cost`; None for no limit.
  """

  batch: Batch
  router: Router
  top_k: int
  run: int
  read: Callable[[Any], Rows]
  mixed: bool
  weighed: bool
  cost: jax.Array | None
  limit: jax.Array | None

  def experts(self) -> jax.Array:
    """Places that hold an expert, [E]."""
    return self.batch.expert() < self.batch.experts

  def none(self) -> jax.Array:
    """The empty set, or counts of 0, int32 [E]."""
    return jnp.zeros((self.batch.padded,), jnp.int32)


def keep_set(problem: Problem, policy: RoutingPolicy) -> jax.Array | None:
  """The experts [E] that rows may use; None is every expert.

  Experts of rows that run their own join it for free. A set that is cut down to the limit, or too small for one row, is
  filled. One that costs no less than what the rows' own best touch gives way to every expert.
  """
  if not policy.batch_aware and problem.limit is None:
    return None
  own, free = _own_experts(problem)
  kept = _kept_by(problem, policy, own, free)
  if free is not None:
    kept |= free
  if problem.limit is not None:
    kept = _within_limit(problem, kept, free, problem.limit)
  # Lynx keeps whole rows' experts, so only a limit leaves it too few.
  if not isinstance(policy, Lynx) or problem.limit is not None:
    kept = _filled(problem, kept)
  return kept | ((total_cost(kept, problem.cost) >= total_cost(own, problem.cost)) & problem.experts())


def _own_experts(problem: Problem) -> tuple[jax.Array, jax.Array | None]:
  """The experts that valid rows' own best touch, and those of them that are read anyway, or None."""
  whose = ("valid", "alone") if problem.mixed else ("valid",)

  def count_own(block: Any, counts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    rows = problem.read(block)
    chosen = own_places(rows, problem.run) < problem.run
    return tuple(had + rows_with(getattr(rows, name), chosen) for had, name in zip(counts, whose, strict=True))

  own, *free = problem.batch.each(count_own, (problem.none(),) * len(whose))
  return own > 0, free[0] > 0 if free else None


def _kept_by(problem: Problem, policy: RoutingPolicy, own: jax.Array, free: jax.Array | None) -> jax.Array:
  """What the voting rows keep under a policy."""
  match policy:
    case Lynx():
      return _by_bins(problem, policy)
    case OEA(k0):

      def count_first(block: Any, counts: jax.Array) -> jax.Array:
        rows = problem.read(block)
        return counts + rows_with(rows.voters, own_places(rows, problem.run) < min(k0, problem.top_k))

      return problem.batch.each(count_first, problem.none()) > 0
    case Auto(share):
      return _worth_reading(problem, share, own, free)
    case MassFloor(tau):
      return _cover(problem, tau, free)
  return problem.experts()


def _by_bins(problem: Problem, policy: Lynx) -> jax.Array:
  """Every voting row's best experts by bin, then by the batch's votes, compared as counts of rows a bin.

  Counts compared in the order of the bins rank experts as their votes, the sums of B**bin, do: what one row adds in
  a bin outweighs all that B rows can add below it. As digits they are packed into few integers. A row that has a say
  counts as often as that.
  """
  batch = problem.batch
  lowest, digits = lowest_bin(policy.beta, batch.experts), counted_bins(policy.beta)
  base = batch.rows * (WHOLE_SAY if problem.weighed else 1) + 1
  per_word = 1
  while base ** (per_word + 1) <= 2**31:
    per_word += 1

  def bins(rows: Rows) -> jax.Array:
    scores = affinity(batch, rows, problem.router)
    below = jnp.maximum(scores - jnp.max(scores, axis=1)[:, None], -2.0 * LARGEST)
    bins = jnp.maximum(jnp.ceil(policy.alpha * below), -float(lowest)).astype(jnp.int32)
    # What a row may not choose lies below its lowest bin, and votes as that.
    return jnp.where(scores <= -LARGEST, -lowest - 1, bins)

  def votes(rows: Rows, flags: jax.Array) -> jax.Array:
    if rows.say is None:
      return rows_with(rows.voters, flags)
    return jnp.sum(jnp.where(flags & rows.voters[:, None], rows.say[:, None], 0), axis=0, dtype=jnp.int32)

  def vote(block: Any, words: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    rows = problem.read(block)
    depth = -bins(rows)
    added = []
    for word in range(len(words)):
      of_word = range(word * per_word, min(digits, (word + 1) * per_word))
      counts = (votes(rows, depth == digit) * base ** (of_word[-1] - digit) for digit in of_word)
      added.append(functools.reduce(jnp.add, counts))
    return tuple(word + more for word, more in zip(words, added, strict=True))

  words = batch.each(vote, (problem.none(),) * pl.cdiv(digits, per_word))
  inside = problem.experts()

  def keep(block: Any, counts: jax.Array) -> jax.Array:
    rows = problem.read(block)
    keys = (bins(rows), *(word[None, :] for word in words))
    if digits <= per_word and (lowest + 2) * base**digits <= 2**31:
      keys = (keys[0] * base**digits + keys[1],)
    return counts + rows_with(rows.voters, best(keys, inside[None, :], problem.run) < problem.run)

  return batch.each(keep, problem.none()) > 0


def _filled(problem: Problem, kept: jax.Array) -> jax.Array:
  """`kept`, with experts added by descending summed probability, per cost, until it holds what one row runs."""
  batch = problem.batch
  unit = 1 << (((2**31 - 1) // batch.rows).bit_length() - 1)
  place = batch.place()

  def add(block: Any, sums: jax.Array) -> jax.Array:
    rows = problem.read(block)
    worth, total = worths(batch, rows, problem.router, problem.top_k)
    fixed = jnp.floor(worth / total[:, None] * unit + 0.5).astype(jnp.int32)
    return sums + jnp.sum(jnp.where(rows.voters[:, None], _said(fixed, rows), 0), axis=0, dtype=jnp.int32)

  def fill(kept: jax.Array) -> jax.Array:
    sums = batch.each(add, jnp.where(problem.experts(), 0, -2))

    def grow(_: Any, kept: jax.Array) -> jax.Array:
      best = best_per_cost(jnp.where(kept != 0, -1, sums), problem.cost)
      return jnp.where((place == best) & (count(kept) < problem.run), 1, kept)

    return each_index(problem.run, grow, kept)

  kept = kept.astype(jnp.int32)
  if not batch.biased:
    return fill(kept) != 0
  # What experts are worth under a bias takes a round for each expert, and few sets need filling.
  return jax.lax.cond(count(kept) < problem.run, fill, lambda kept: kept, kept) != 0


def _said(values: jax.Array, rows: Rows) -> jax.Array:
  """Integers [T, E] of rows, by the rows' say."""
  return values if rows.say is None else weighted(values, rows.say[:, None])


def _within_limit(problem: Problem, kept: jax.Array, free: jax.Array | None, limit: jax.Array) -> jax.Array:
  """`kept` if it costs no more than the limit, else the part of it, by greedy cover, that retains most mass."""

  def cover(kept: jax.Array) -> jax.Array:
    return _cover(problem, 1.0, free, candidates=kept != 0, limit=limit).astype(jnp.int32)

  fits = total_cost(kept, problem.cost) <= limit
  return jax.lax.cond(fits, lambda kept: kept, cover, kept.astype(jnp.int32)) != 0


def _cover(
  problem: Problem,
  tau: float,
  free: jax.Array | None,
  *,
  candidates: jax.Array | None = None,
  limit: jax.Array | None = None,
) -> jax.Array:
  """Experts added by descending gain, per cost, until each voting row has `tau` of its own mass, in fixed point.

  They are taken from the `candidates` [E], or None for every expert, while all cost no more than `limit`.
  """
  batch, cost, rows = problem.batch, problem.cost, problem.read(0)
  own = own_places(rows, problem.run) < problem.run
  worth, total = worths(batch, rows, problem.router, problem.top_k)
  fixed = jnp.floor(worth / total[:, None] * UNIT).astype(jnp.int32)
  own_mass = jnp.sum(jnp.where(own, fixed, 0), axis=1, dtype=jnp.int32)
  slack = jnp.floor((1.0 - tau) * own_mass.astype(jnp.float32)).astype(jnp.int32)
  floor = jnp.where(rows.voters, own_mass - slack, 0)
  shift = (batch.rows - 1).bit_length()
  outside, at = ~problem.experts() if candidates is None else ~candidates, batch.place()
  slots = _Slots(run=problem.run, empty=UNIT)

  def closed(taken: jax.Array) -> jax.Array:
    closed = (taken != 0) | outside
    return closed if limit is None or cost is None else closed | (total_cost(taken != 0, cost) + cost > limit)

  def short(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    taken, _, deficit = carry
    if limit is None or cost is None:
      room = count(taken) < (batch.experts if limit is None else limit)
    else:
      room = count(~closed(taken)) > 0
    return (jnp.max(deficit) > 0) & room

  def take_best(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    taken, best, deficit = carry
    least = slots.least(best)
    added = jnp.minimum(jnp.maximum(fixed - least[:, None], 0), deficit[:, None])
    gain = jnp.sum(_said((added + ((1 << shift) - 1)) >> shift, rows), axis=0, dtype=jnp.int32)
    pick = best_per_cost(jnp.where(closed(taken), -1, gain), cost)
    mass = jnp.sum(jnp.where((at == pick)[None, :], fixed, 0), axis=1, dtype=jnp.int32)
    best = slots.replaced(best, least, mass)
    return jnp.where(at == pick, 1, taken), best, jnp.maximum(floor - jnp.sum(best, axis=1, dtype=jnp.int32), 0)

  start = problem.none(), slots.none(batch.block, jnp.int32), floor
  if free is not None:
    best = slots.best_of(fixed, free)
    start = free.astype(jnp.int32), best, jnp.maximum(floor - jnp.sum(best, axis=1, dtype=jnp.int32), 0)
  return jax.lax.while_loop(short, take_best, start)[0] != 0


def _worth_reading(problem: Problem, share: float, own_experts: jax.Array, free: jax.Array | None) -> jax.Array:
  """Experts added by descending saving, per cost, while the next saves the price.

  Savings of rows are summed in fixed point. `own_experts` are those that valid rows' own best touch.
  """
  batch, cost, rows = problem.batch, problem.cost, problem.read(0)
  own = own_places(rows, problem.run) < problem.run
  powers = jnp.where(rows.voters[:, None], worths(batch, rows, problem.router, problem.top_k)[0], 0.0)
  mass = jnp.sum(jnp.where(own, powers, 0.0), axis=1)
  weight = powers / jnp.where(rows.voters, mass, 1.0)[:, None]
  squared = jnp.where(own, weight * weight, 0.0)
  unit = float(1 << (29 - (batch.rows - 1).bit_length()))
  if problem.mixed or problem.weighed:
    own_experts = rows_with(rows.voters, own) > 0

  def total(saved: jax.Array) -> jax.Array:
    return jnp.sum(_said(jnp.floor(saved * unit + 0.5).astype(jnp.int32), rows), axis=0, dtype=jnp.int32)

  all_squares = jnp.sum(total(squared), dtype=jnp.int32).astype(jnp.float32)
  price = share * all_squares / jnp.maximum(total_cost(own_experts, cost), 1).astype(jnp.float32)
  outside, at = ~problem.experts(), batch.place()
  slots = _Slots(run=problem.run, empty=2.0)

  def more(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    return carry[2] != 0

  def take_best(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    taken, best, _ = carry
    least, lost = slots.least(best), 1.0 - jnp.sum(best, axis=1)
    left = lost[:, None] - jnp.maximum(weight - least[:, None], 0.0)
    saved = jnp.where(rows.voters[:, None], squared + (lost * lost)[:, None] - left * left, 0.0)
    gain = jnp.where((taken != 0) | outside, -1, total(saved))
    pick = best_per_cost(gain, cost)
    if cost is None:
      most, asked = jnp.max(gain), price
    else:
      most = jnp.max(jnp.where(at == pick, gain, -1))
      asked = price * jnp.max(jnp.where(at == pick, cost, 0)).astype(jnp.float32)
    worth = (most > 0) & (most.astype(jnp.float32) >= asked)
    gained = jnp.sum(jnp.where((at == pick)[None, :] & worth, weight, 0.0), axis=1)
    return jnp.where((at == pick) & worth, 1, taken), slots.replaced(best, least, gained), worth.astype(jnp.int32)

  start = problem.none(), slots.none(batch.block, jnp.float32)
  if free is not None:
    start = free.astype(jnp.int32), slots.best_of(weight, free)
  return jax.lax.while_loop(more, take_best, (*start, jnp.int32(1)))[0] != 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Slots:
  """Each row's `run` best values among the experts taken so far, [T, K] with K padded to a power of two.

  `empty` is more than any value: what a place that is no slot counts as.
  """

  run: int
  empty: int | float

  def _place(self) -> jax.Array:
    return jnp.arange(pl.next_power_of_2(self.run), dtype=jnp.int32)[None, :]

  def none(self, rows: int, dtype: Any) -> jax.Array:
    """Values of 0."""
    return jnp.zeros((rows, pl.next_power_of_2(self.run)), dtype)

  def _closed(self, values: jax.Array) -> jax.Array:
    return values + jnp.where(self._place() < self.run, jnp.zeros((), values.dtype), self.empty)

  def least(self, values: jax.Array) -> jax.Array:
    """The least of each row, [T]."""
    return jnp.min(self._closed(values), axis=1)

  def replaced(self, values: jax.Array, least: jax.Array, new: jax.Array) -> jax.Array:
    """`values` with each row's least one, which is `least` [T], replaced by `new` [T] where that is more."""
    at_least = self._place() == jax.lax.argmin(self._closed(values), 1, jnp.int32)[:, None]
    return jnp.where(at_least, jnp.maximum(least, new)[:, None], values)

  def best_of(self, values: jax.Array, taken: jax.Array) -> jax.Array:
    """Each row's best of `values` [T, E], none negative, among the experts `taken` [E]."""
    place = best((values,), taken[None, :], self.run)

    def put(index: jax.Array, found: jax.Array) -> jax.Array:
      value = jnp.sum(jnp.where(place == index, values, 0), axis=1, dtype=values.dtype)
      return jnp.where(self._place() == index, value[:, None], found)

    return each_index(self.run, put, self.none(values.shape[0], values.dtype))
