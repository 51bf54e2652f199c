"""The sizes and dtypes of the suites, compiled for a GPU: where there is one, the suites run there as they are."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from pallas_kernels import append_heads, chunk_attention, decode_attention, expert_ffn, gates, lynx_route, row_matmul
from tests.pallas_kernels import test_append_heads as appending
from tests.pallas_kernels import test_chunk_attention as chunks
from tests.pallas_kernels import test_decode_attention as attending
from tests.pallas_kernels import test_expert_ffn as experts
from tests.pallas_kernels import test_lynx_route as routing
from tests.pallas_kernels import test_lynx_route_routers as routers
from tests.pallas_kernels import test_row_matmul as products

F32, BF16, I32 = jnp.float32, jnp.bfloat16, jnp.int32


def of(dtype, *sizes):
  return jax.ShapeDtypeStruct(sizes, dtype)


def with_bias(logits, bias=None, **options):
  return lynx_route(logits, selection_bias=bias, **options)


def with_terms(logits, own, weight, cost, limit=None, **options):
  return lynx_route(logits, own=own, weight=weight, cost=cost, limit=limit, **options)


def chunk_program(dtype, sizes, sinks, bounds):
  window, chunk, scale = bounds
  value_width = sizes.value_width if sizes.latent else None
  tile: Any = of(I32, chunks.most_query_tiles(sizes.rows, sizes.slots))
  pool = of(dtype, sizes.slots * sizes.blocks, sizes.groups, chunks.BLOCK, sizes.width)
  value = None if sizes.latent else of(dtype, *pool.shape[:3], sizes.value_width)
  query, tables = of(dtype, sizes.rows, sizes.heads, sizes.width), of(I32, sizes.slots, sizes.blocks)

  def attend(query, pool, value, tiles, tables, sinks, implementation):
    return chunk_attention(
      query, pool, value, tiles, tables, window=window, chunk=chunk, scale=scale, sinks=sinks,
      value_width=value_width, implementation=implementation,
    )  # fmt: skip

  return attend, (query, pool, value, chunks.QueryTiles(*[tile] * 4), tables, of(F32, sizes.heads) if sinks else None)


def programs():
  for dtype in (F32, BF16):
    name = jnp.dtype(dtype).name
    # float32 at one size: sizes and dtypes are odd independently of each other.
    some = slice(1, 2) if dtype == F32 else slice(None)
    for rows, heads, groups, width, capacity in attending.SIZES[some]:
      cache = of(dtype, rows, groups, capacity, width)
      args = (of(dtype, rows, heads, width), cache, cache, of(I32, rows))
      yield f"decode_attention-{name}-{rows}x{capacity}", functools.partial(decode_attention, window=5), args
    for rows, heads, groups, width, capacity in appending.SIZES[some]:
      cache, key = of(dtype, rows, groups, capacity, width), of(dtype, rows, groups * width)
      turn = of(F32, rows, width // 2)
      args = (of(dtype, rows, heads * width), key, key, cache, cache, of(I32, rows), turn, turn)
      yield f"append_heads-{name}-{rows}x{heads}", append_heads, args
    for index, (sizes, sinks, bounds) in enumerate(chunks.CASES[some]):
      yield f"chunk_attention-{name}-{index}", *chunk_program(dtype, sizes, sinks, bounds)
  for rows, count, top_k, width, expert_width in experts.SHAPES:
    ids, weights = of(I32, rows, top_k), of(F32, rows, top_k)
    stacks = of(F32, count, 2 * expert_width, width), of(F32, count, width, expert_width)
    yield f"expert_ffn-{rows}x{width}", expert_ffn, (of(F32, rows, width), ids, weights, *stacks)
  for rows, inner, columns in products.SIZES:
    yield f"row_matmul-{rows}x{inner}", row_matmul, (of(BF16, rows, inner), of(BF16, columns, inner))
  for index, (rows, count, top_k, policy, router) in enumerate(routing.CASES):
    if "pallas" in routing.names(policy):
      fn = functools.partial(lynx_route, top_k=top_k, policy=policy, router=router)
      yield f"lynx_route-{index}", fn, (of(F32, rows, count),)
  for rows, count, top_k, policy, limit in ((11, 8, 2, routing.Auto(1.5), True), (70, 100, 5, routing.OEA(2), False)):
    fn = functools.partial(with_terms, top_k=top_k, policy=policy)
    args = of(F32, rows, count), of(jnp.bool_, rows), of(F32, rows), of(F32, count), *[of(F32)] * limit
    yield f"lynx_route-terms-{rows}x{count}", fn, args
  for name, policy in (
    ("DeepSeek-V2", "oea"),
    ("DeepSeek-V3", "auto"),
    ("three groups", "lynx"),
    ("Phi-3.5", "mass_floor"),
  ):
    rows, count, top_k, router, biased = routers.ROUTERS[name]
    fn = functools.partial(with_bias, top_k=top_k, policy=routers.POLICIES[policy], router=router)
    yield f"lynx_route-{name}-{policy}", fn, (of(F32, rows, count), *[of(F32, count)] * biased)


@pytest.mark.parametrize(("fn", "args"), [pytest.param(fn, args, id=name) for name, fn, args in programs()])
@pytest.mark.usefixtures("own_errors")
def test_it_compiles(fn, args):
  report = gates.compile_for(functools.partial(fn, implementation="pallas"), args, "h100")
  assert any(kernel.registers for kernel in report.kernels.values())
