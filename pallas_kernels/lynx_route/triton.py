"""TiledRouting in one program: rows are few, and a batch must agree, so there is nothing to spread over a GPU.

Scores stay in registers, a block of rows at a time (rows.py).
"""

import functools
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
from pallas_kernels.lynx_route.keep_sets import GREEDY, Problem, keep_set
from pallas_kernels.lynx_route.lynx import Lynx
from pallas_kernels.lynx_route.mass_floor import MassFloor
from pallas_kernels.lynx_route.policy import RoutingPolicy, TiledRouting
from pallas_kernels.lynx_route.rivals import OEA, Prune
from pallas_kernels.lynx_route.router import Router
from pallas_kernels.lynx_route.rows import (
  Batch,
  Rows,
  chosen_places,
  count,
  heaviest_row,
  padded_experts,
  read,
  rows_with,
  weights,
)
from pallas_kernels.lynx_route.terms import costs, in_units
from pallas_kernels.lynx_route.topk import TopK

MOST_ROWS, MOST_EXPERTS = 256, 512
_POLICIES = (TopK, Prune, OEA, Lynx, MassFloor, Auto)


def objection(arrays: RouteArrays, *, policy: RoutingPolicy, router: Router, **options: object) -> str | None:
  """Why the kernel cannot take these arguments, or None."""
  rows, experts = arrays.logits.shape
  # By exact type: a user's subclass may choose another keep set.
  if type(policy) not in _POLICIES:
    return f"it has no code for the policy {policy}"
  padded = padded_experts(experts, router.groups)
  if rows > MOST_ROWS or padded > MOST_EXPERTS:
    cut = "" if router.groups == 1 else f" in {router.groups} groups, which take the place of {padded}"
    return f"it takes at most {MOST_ROWS} rows and {MOST_EXPERTS} experts, not {rows} and {experts}{cut}"
  if _needs_all_rows(arrays, policy) and (most := _row_block(arrays, policy, router)) < rows:
    what = "a greedy policy" if isinstance(policy, GREEDY) else "a limit"
    return f"{what} takes at most {most} rows of {experts} experts, not {rows}"
  return None


def _needs_all_rows(arrays: RouteArrays, policy: RoutingPolicy) -> bool:
  """Whether experts are added one by one, by what they are to all rows: greedy policies do, and a limit."""
  return isinstance(policy, GREEDY) or arrays.limit is not None


def _cut(arrays: RouteArrays, policy: RoutingPolicy, router: Router) -> tuple[int, int]:
  """Scores per block and per warp, chosen so that no released model's size spills registers."""
  if router.groups == 1 and not _needs_all_rows(arrays, policy):
    padded = padded_experts(arrays.logits.shape[1], router.groups)
    if router.scoring == "sigmoid":
      return 2048, 128
    if not policy.batch_aware:
      return (1024, 128) if padded <= 32 else (2048, 128) if padded < 256 else (4096, 512)
  return 4096, 128 if _greedy_per_cost(arrays, policy) else 256


def _greedy_per_cost(arrays: RouteArrays, policy: RoutingPolicy) -> bool:
  """Whether a greedy policy weighs gains against costs, which takes more registers a score."""
  return isinstance(policy, GREEDY) and arrays.cost is not None


def _row_block(arrays: RouteArrays, policy: RoutingPolicy, router: Router) -> int:
  rows, experts = arrays.logits.shape
  most = max(1, _cut(arrays, policy, router)[0] // padded_experts(experts, router.groups))
  return min(pl.next_power_of_2(rows), most)


def _warps(rows: int, arrays: RouteArrays, policy: RoutingPolicy, router: Router) -> int:
  """As many as hold so many scores each, or one a row: then a row's best are found without leaving its warp.

  That gives a thread few scores and up to 64 registers, which is too little for a limit on more than 16 rows and for
  gains per cost, unless there are few scores in all.
  """
  padded = padded_experts(arrays.logits.shape[1], router.groups)
  needs_more = (arrays.limit is not None and rows > 16) or _greedy_per_cost(arrays, policy)
  one_a_row = 1 if needs_more and rows * padded >= 1024 else min(rows, 1024 // padded)
  return max(1, min(16, max(rows * padded // _cut(arrays, policy, router)[1], one_a_row)))


def lynx_route_triton(
  arrays: RouteArrays, *, top_k: int, policy: RoutingPolicy, router: Router, tiles: bool
) -> TiledRouting:
  """`lynx_route` in one launch, which groups the rows by expert as well."""
  (rows, experts), run = arrays.logits.shape, policy.experts_per_token(top_k)
  most = most_tiles(rows * run, rows, experts, DECODE_TILE)
  if not policy.batch_aware and arrays.limit is None:
    # Every row runs its own experts, whatever the terms.
    arrays = arrays._replace(own=None, weight=None, cost=None)
  batch = Batch(
    rows=rows,
    experts=experts,
    groups=router.groups,
    biased=arrays.selection_bias is not None,
    block=_row_block(arrays, policy, router),
  )
  inputs = {name: jnp.atleast_1d(array) for name, array in arrays._asdict().items() if array is not None}
  shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.int32)
  ids, weights, active, in_use, expert, slot = call(
    functools.partial(_kernel, names=tuple(inputs), batch=batch, top_k=top_k, policy=policy, router=router),
    *inputs.values(),
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
    num_warps=_warps(batch.block, arrays, policy, router),
  )
  return TiledRouting(ids, weights, active != 0, Tiles(in_use.reshape(()), expert, slot) if tiles else None)


def _kernel(*refs, names: tuple[str, ...], batch: Batch, top_k: int, policy: RoutingPolicy, router: Router):
  given = RouteArrays(**dict(zip(names, refs, strict=False)))
  ids_ref, weights_ref, active_ref, in_use_ref, expert_ref, slot_ref = refs[len(names) :]
  expert, run = batch.expert(), policy.experts_per_token(top_k)
  problem = _problem(batch, given, router, top_k, run)
  kept = keep_set(problem, policy)
  weigh = functools.partial(weights, run=run, top_k=top_k, alone=kept is None)

  def choose(block: Any) -> tuple[Rows, jax.Array]:
    rows = problem.read(block)
    return rows, chosen_places(rows, router, kept, batch.experts, run)

  if batch.blocks == 1:
    choose = functools.cache(choose)

  def add_load(block: Any, load: jax.Array) -> jax.Array:
    rows, place = choose(block)
    return load + rows_with(rows.valid, place < run)

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


def _problem(batch: Batch, given: RouteArrays, router: Router, top_k: int, run: int) -> Problem:
  """What the keep set is computed from; `given` holds the refs of the arrays."""
  read_block = functools.partial(read, batch, router, given, heaviest_row(batch, given))
  cost = limit = None
  if given.cost is not None:
    # Places that hold no expert cost what the last expert does, which changes nothing: no set has them. Costs have the
    # same unit for up to 1023 experts or places.
    cost = costs(plgpu.load(given.cost.at[jnp.minimum(batch.expert(), batch.experts - 1)]))
  if given.limit is not None:
    limit = jnp.asarray(in_units(plgpu.load(given.limit.at[jnp.int32(0)]), batch.experts, cost))
  return Problem(
    batch=batch,
    router=router,
    top_k=top_k,
    run=run,
    read=read_block,
    mixed=given.own is not None,
    weighed=given.weight is not None,
    cost=cost,
    limit=limit,
  )
