"""TiledRouting in one program: rows are few, and a batch must agree, so there is nothing to spread over a GPU.

Scores stay in registers, a block of rows at a time (rows.py).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.expert_ffn.blocks import DECODE_TILE
from pallas_kernels.expert_ffn.tiles import Tiles, most_tiles
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.lynx_route.arguments import RouteArrays
from pallas_kernels.lynx_route.auto import Auto
from pallas_kernels.lynx_route.lynx import Lynx, counted_bins, lowest_bin
from pallas_kernels.lynx_route.mass_floor import MassFloor
from pallas_kernels.lynx_route.policy import RoutingPolicy, TiledRouting
from pallas_kernels.lynx_route.rivals import OEA, Prune
from pallas_kernels.lynx_route.router import Router
from pallas_kernels.lynx_route.rows import (
  LARGEST,
  Batch,
  Rows,
  affinity,
  best,
  chosen_places,
  count,
  each_index,
  largest_at,
  own_places,
  padded_experts,
  read,
  rows_with,
  weights,
  worths,
)
from pallas_kernels.lynx_route.topk import TopK

MOST_ROWS, MOST_EXPERTS = 256, 512
_POLICIES = (TopK, Prune, OEA, Lynx, MassFloor, Auto)
# Policies that add experts one by one, and need all rows in registers at once.
_GREEDY = (MassFloor, Auto)
# A probability of 1 in the cover's fixed point: sums over a row's experts still fit an int32.
_UNIT = 1 << 30


def objection(arrays: RouteArrays, *, policy: RoutingPolicy, router: Router, **options: object) -> str | None:
  """Why the kernel cannot take these arguments, or None."""
  rows, experts = arrays.logits.shape
  if arrays.terms_given:
    return f"it has no code for {' and '.join(arrays.terms_given)}"
  # By exact type: a user's subclass may choose another keep set.
  if type(policy) not in _POLICIES:
    return f"it has no code for the policy {policy}"
  padded = padded_experts(experts, router.groups)
  if rows > MOST_ROWS or padded > MOST_EXPERTS:
    cut = "" if router.groups == 1 else f" in {router.groups} groups, which take the place of {padded}"
    return f"it takes at most {MOST_ROWS} rows and {MOST_EXPERTS} experts, not {rows} and {experts}{cut}"
  if isinstance(policy, _GREEDY) and (most := _row_block(rows, padded, policy, router)) < rows:
    return f"a greedy policy takes at most {most} rows of {experts} experts, not {rows}"
  return None


def _cut(padded: int, policy: RoutingPolicy, router: Router) -> tuple[int, int]:
  """Scores per block and per warp, chosen so that no released model's size spills registers."""
  if router.scoring == "sigmoid" and router.groups == 1 and not isinstance(policy, _GREEDY):
    return 2048, 128
  if not policy.batch_aware and router.groups == 1:
    return (1024, 128) if padded <= 32 else (2048, 128) if padded < 256 else (4096, 512)
  return 4096, 256


def _row_block(rows: int, padded: int, policy: RoutingPolicy, router: Router) -> int:
  return min(pl.next_power_of_2(rows), max(1, _cut(padded, policy, router)[0] // padded))


def _warps(rows: int, padded: int, scores: int) -> int:
  """As many as hold so many scores each, or one a row: then a row's best are found without leaving its warp."""
  return max(1, min(16, max(rows * padded // scores, min(rows, 1024 // padded))))


def lynx_route_triton(
  arrays: RouteArrays, *, top_k: int, policy: RoutingPolicy, router: Router, tiles: bool
) -> TiledRouting:
  """`lynx_route` in one launch, which groups the rows by expert as well."""
  (rows, experts), run = arrays.logits.shape, policy.experts_per_token(top_k)
  most = most_tiles(rows * run, rows, experts, DECODE_TILE)
  padded = padded_experts(experts, router.groups)
  batch = Batch(
    rows=rows,
    experts=experts,
    groups=router.groups,
    biased=arrays.selection_bias is not None,
    block=_row_block(rows, padded, policy, router),
  )
  inputs = [array for array in arrays if array is not None]
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
  ids, weights, active, in_use, expert, slot = call(
    functools.partial(_kernel, inputs=len(inputs), batch=batch, top_k=top_k, policy=policy, router=router),
    *inputs,
    grid=(1,),
    out_shape=[
      shape((rows, run)),
      jax.ShapeDtypeStruct((rows, run), jnp.float32),
      shape((experts,)),
      shape((1,)),
      shape((most,)),
      shape((most, DECODE_TILE)),
    ],
    name="lynx_route",
    num_warps=_warps(batch.block, padded, _cut(padded, policy, router)[1]),
  )
  return TiledRouting(ids, weights, active != 0, Tiles(in_use.reshape(()), expert, slot) if tiles else None)


def _kernel(*refs, inputs: int, batch: Batch, top_k: int, policy: RoutingPolicy, router: Router):
  logits_ref, valid_ref, bias_ref = (*refs[:inputs], None)[:3]
  ids_ref, weights_ref, active_ref, in_use_ref, expert_ref, slot_ref = refs[inputs:]
  expert, run = batch.expert(), policy.experts_per_token(top_k)
  read_block = functools.partial(read, batch, router, logits_ref, valid_ref, bias_ref)
  kept = _kept(batch, read_block, top_k, policy, router)
  weigh = functools.partial(weights, run=run, top_k=top_k, alone=not policy.batch_aware)

  def choose(block: Any) -> tuple[Rows, jax.Array]:
    rows = read_block(block)
    return rows, chosen_places(rows, router, kept, batch.experts, run)

  if batch.blocks == 1:
    choose = functools.cache(choose)

  def add_load(block: Any, load: jax.Array) -> jax.Array:
    rows, place = choose(block)
    return load + rows_with(rows, place < run)

  load = batch.each(add_load, jnp.zeros((batch.padded,), jnp.int32))
  tiles = (load + (DECODE_TILE - 1)) // DECODE_TILE
  active = load > 0
  # Two running sums in one: no more than 512 experts are active.
  both = (tiles << 10) + active.astype(jnp.int32)
  upto, total = jnp.cumsum(both, dtype=jnp.int32), jnp.sum(both, dtype=jnp.int32)
  first, in_use = (upto >> 10) - tiles, total >> 10
  # Rows that do not count point at experts that are read anyway, the others after those.
  idle = jnp.where(active, upto & 1023, (total & 1023) + expert + 1 - (upto & 1023)) - 1
  idle = jnp.where(expert < batch.experts, jnp.minimum(idle, run), run)

  # The interpreter stores old values where a mask is off: such places must lie outside of the array.
  nowhere, tile_size = expert_ref.shape[0], np.int32(DECODE_TILE)

  def write(block: Any, before: jax.Array) -> jax.Array:
    rows, place = choose(block)
    chosen = (place < run) & rows.valid[:, None]
    taken = chosen.astype(jnp.int32)
    at = (first * DECODE_TILE + before)[None, :] + jnp.cumsum(taken, axis=0, dtype=jnp.int32) - taken
    row = jnp.broadcast_to(rows.index[:, None], place.shape)
    tile = jnp.where(chosen, jax.lax.div(at, tile_size), nowhere)
    plgpu.store(slot_ref.at[tile, jax.lax.rem(at, tile_size)], row * run + place, mask=chosen)
    weight = jnp.where(chosen, weigh(rows, place, kept, router), 0.0)
    place = jnp.where(rows.valid[:, None], place, idle[None, :])
    written = (place < run) & (rows.index < batch.rows)[:, None]
    plgpu.store(ids_ref.at[row, place], jnp.broadcast_to(expert[None, :], place.shape), mask=written)
    plgpu.store(weights_ref.at[row, place], weight, mask=written)
    return before + count(taken, axis=0)

  batch.each(write, jnp.zeros((batch.padded,), jnp.int32))
  plgpu.store(active_ref.at[expert], active.astype(jnp.int32), mask=expert < batch.experts)
  plgpu.store(in_use_ref.at[jnp.arange(1)], in_use[None])
  for index in range(pl.cdiv(batch.rows, DECODE_TILE)):
    plgpu.store(expert_ref.at[jnp.where(index < tiles, first + index, nowhere)], expert, mask=index < tiles)
  # The places that an expert's last tile has left.
  spot = jnp.arange(DECODE_TILE, dtype=jnp.int32)[None, :]
  left = active[:, None] & (spot > ((load - 1) % DECODE_TILE)[:, None])
  last = jnp.where(left, (first + tiles - 1)[:, None], nowhere)
  none = jnp.full(left.shape, batch.rows * run, jnp.int32)
  plgpu.store(slot_ref.at[last, jnp.broadcast_to(spot, left.shape)], none, mask=left)


def _kept(
  batch: Batch, read: Callable[[Any], Rows], top_k: int, policy: RoutingPolicy, router: Router
) -> jax.Array | None:
  """The experts [E] that rows may use; None is every expert.

  A set that is no smaller than what the rows' own best touch gives way to every expert.
  """
  if not policy.batch_aware:
    return None
  none = jnp.zeros((batch.padded,), jnp.int32)

  def count_own(block: Any, counts: jax.Array) -> jax.Array:
    rows = read(block)
    return counts + rows_with(rows, own_places(rows, top_k) < top_k)

  own = batch.each(count_own, none) > 0
  if isinstance(policy, Lynx):
    kept = _kept_by_bins(batch, read, top_k, policy, router)
  elif isinstance(policy, OEA):

    def count_first(block: Any, counts: jax.Array) -> jax.Array:
      rows = read(block)
      return counts + rows_with(rows, own_places(rows, top_k) < min(policy.k0, top_k))

    kept = _filled(batch, read, batch.each(count_first, none) > 0, top_k, router)
  else:
    rows = read(0)
    of_row = own_places(rows, top_k) < top_k
    if isinstance(policy, Auto):
      greedy = _worth_reading(batch, rows, of_row, count(own), top_k, policy.share, router)
    elif isinstance(policy, MassFloor):
      greedy = _cover(batch, rows, of_row, top_k, policy.tau, router)
    else:
      raise NotImplementedError(f"there is no kernel for {policy}")
    kept = _filled(batch, read, greedy, top_k, router)
  return kept | ((count(kept) >= count(own)) & (batch.expert() < batch.experts))


def _kept_by_bins(batch: Batch, read: Callable[[Any], Rows], top_k: int, policy: Lynx, router: Router) -> jax.Array:
  """Every valid row's best experts by bin, then by the batch's votes, compared as counts of rows a bin.

  Counts compared in the order of the bins rank experts as their votes, the sums of B**bin, do: what one row adds in
  a bin outweighs all that B rows can add below it. As digits they are packed into few integers.
  """
  lowest, digits = lowest_bin(policy.beta, batch.experts), counted_bins(policy.beta)
  base = batch.rows + 1
  per_word = 1
  while base ** (per_word + 1) <= 2**31:
    per_word += 1

  def bins(rows: Rows) -> jax.Array:
    scores = affinity(batch, rows, router)
    below = jnp.maximum(scores - jnp.max(scores, axis=1)[:, None], -2.0 * LARGEST)
    bins = jnp.maximum(jnp.ceil(policy.alpha * below), -float(lowest)).astype(jnp.int32)
    # What a row may not choose lies below its lowest bin, and votes as that.
    return jnp.where(scores <= -LARGEST, -lowest - 1, bins)

  def vote(block: Any, words: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    rows = read(block)
    depth = -bins(rows)
    added = []
    for word in range(len(words)):
      of_word = range(word * per_word, min(digits, (word + 1) * per_word))
      counts = (rows_with(rows, depth == digit) * base ** (of_word[-1] - digit) for digit in of_word)
      added.append(functools.reduce(jnp.add, counts))
    return tuple(word + more for word, more in zip(words, added, strict=True))

  none = jnp.zeros((batch.padded,), jnp.int32)
  words = batch.each(vote, (none,) * pl.cdiv(digits, per_word))
  inside = batch.expert() < batch.experts

  def keep(block: Any, counts: jax.Array) -> jax.Array:
    rows = read(block)
    keys = (bins(rows), *(word[None, :] for word in words))
    if digits <= per_word and (lowest + 2) * base**digits <= 2**31:
      keys = (keys[0] * base**digits + keys[1],)
    return counts + rows_with(rows, best(keys, inside, top_k) < top_k)

  return batch.each(keep, none) > 0


def _filled(batch: Batch, read: Callable[[Any], Rows], kept: jax.Array, top_k: int, router: Router) -> jax.Array:
  """`kept`, with experts added by descending summed probability until it holds what one row runs."""
  unit = 1 << (((2**31 - 1) // batch.rows).bit_length() - 1)
  place = batch.place()

  def add(block: Any, sums: jax.Array) -> jax.Array:
    rows = read(block)
    worth, total = worths(batch, rows, router, top_k)
    fixed = jnp.floor(worth / total[:, None] * unit + 0.5).astype(jnp.int32)
    return sums + jnp.sum(jnp.where(rows.valid[:, None], fixed, 0), axis=0, dtype=jnp.int32)

  def fill(kept: jax.Array) -> jax.Array:
    sums = batch.each(add, jnp.where(batch.expert() < batch.experts, 0, -2))

    def grow(_: Any, kept: jax.Array) -> jax.Array:
      best = largest_at(jnp.where(kept != 0, -1, sums), 0)
      return jnp.where((place == best) & (count(kept) < top_k), 1, kept)

    return each_index(top_k, grow, kept)

  kept = kept.astype(jnp.int32)
  if not batch.biased:
    return fill(kept) != 0
  # What experts are worth under a bias takes a round for each expert, and few sets need filling.
  return jax.lax.cond(count(kept) < top_k, fill, lambda kept: kept, kept) != 0


def _cover(batch: Batch, rows: Rows, own: jax.Array, top_k: int, tau: float, router: Router) -> jax.Array:
  """Experts added by descending gain until each valid row has `tau` of its own mass, in fixed point."""
  worth, total = worths(batch, rows, router, top_k)
  fixed = jnp.floor(worth / total[:, None] * _UNIT).astype(jnp.int32)
  own_mass = jnp.sum(jnp.where(own, fixed, 0), axis=1, dtype=jnp.int32)
  slack = jnp.floor((1.0 - tau) * own_mass.astype(jnp.float32)).astype(jnp.int32)
  floor = jnp.where(rows.valid, own_mass - slack, 0)
  shift = (batch.rows - 1).bit_length()
  outside, at = batch.expert() >= batch.experts, batch.place()
  place = jnp.arange(pl.next_power_of_2(top_k), dtype=jnp.int32)[None, :]
  unused = jnp.where(place < top_k, 0, _UNIT)

  def short(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    return (jnp.max(carry[2]) > 0) & (count(carry[0]) < batch.experts)

  def take_best(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    taken, best, deficit = carry
    least = jnp.min(best + unused, axis=1)
    added = jnp.minimum(jnp.maximum(fixed - least[:, None], 0), deficit[:, None])
    gain = jnp.sum((added + ((1 << shift) - 1)) >> shift, axis=0, dtype=jnp.int32)
    pick = largest_at(jnp.where((taken != 0) | outside, -1, gain), 0)
    mass = jnp.sum(jnp.where((at == pick)[None, :], fixed, 0), axis=1, dtype=jnp.int32)
    replaced = place == jax.lax.argmin(best + unused, 1, jnp.int32)[:, None]
    best = jnp.where(replaced, jnp.maximum(least, mass)[:, None], best)
    return jnp.where(at == pick, 1, taken), best, jnp.maximum(floor - jnp.sum(best, axis=1, dtype=jnp.int32), 0)

  none = jnp.zeros((batch.padded,), jnp.int32), jnp.zeros((batch.block, place.shape[1]), jnp.int32), floor
  return jax.lax.while_loop(short, take_best, none)[0] != 0


def _worth_reading(
  batch: Batch, rows: Rows, own: jax.Array, own_experts: jax.Array, top_k: int, share: float, router: Router
) -> jax.Array:
  """Experts added by descending saving while the next saves the price; savings of rows are summed in fixed point."""
  powers = jnp.where(rows.valid[:, None], worths(batch, rows, router, top_k)[0], 0.0)
  mass = jnp.sum(jnp.where(own, powers, 0.0), axis=1)
  weight = powers / jnp.where(rows.valid, mass, 1.0)[:, None]
  squared = jnp.where(own, weight * weight, 0.0)
  unit = float(1 << (29 - (batch.rows - 1).bit_length()))

  def total(saved: jax.Array) -> jax.Array:
    return jnp.sum(jnp.floor(saved * unit + 0.5).astype(jnp.int32), axis=0, dtype=jnp.int32)

  all_squares = jnp.sum(total(squared), dtype=jnp.int32).astype(jnp.float32)
  price = share * all_squares / jnp.maximum(own_experts, 1).astype(jnp.float32)
  outside, at = batch.expert() >= batch.experts, batch.place()
  place = jnp.arange(pl.next_power_of_2(top_k), dtype=jnp.int32)[None, :]
  unused = jnp.where(place < top_k, 0.0, 2.0)

  def more(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    return carry[2] != 0

  def take_best(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    taken, best, _ = carry
    least, lost = jnp.min(best + unused, axis=1), 1.0 - jnp.sum(best, axis=1)
    left = lost[:, None] - jnp.maximum(weight - least[:, None], 0.0)
    saved = jnp.where(rows.valid[:, None], squared + (lost * lost)[:, None] - left * left, 0.0)
    gain = jnp.where((taken != 0) | outside, -1, total(saved))
    most, pick = jnp.max(gain), largest_at(gain, 0)
    worth = (most > 0) & (most.astype(jnp.float32) >= price)
    gained = jnp.sum(jnp.where((at == pick)[None, :], weight, 0.0), axis=1)
    replaced = (place == jax.lax.argmin(best + unused, 1, jnp.int32)[:, None]) & worth
    best = jnp.where(replaced, jnp.maximum(least, gained)[:, None], best)
    return jnp.where((at == pick) & worth, 1, taken), best, worth.astype(jnp.int32)

  none = jnp.zeros((batch.padded,), jnp.int32), jnp.zeros((batch.block, place.shape[1]), jnp.float32)
  return jax.lax.while_loop(more, take_best, (*none, jnp.int32(1)))[0] != 0
