"""Attention of a decode step at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK, BlockTables
from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def programs(shape: ModelShape) -> dict[str, Program]:
  """Many rows of a short cache, one row of a long one, a pool of blocks, and the window where the model has one."""
  made = {
    f"T={rows}, C={capacity}": _program(shape, rows, capacity, None) for rows, capacity in ((16, 1024), (1, 8192))
  }
  made["T=64, C=4096"] = _program(shape, 64, 4096, None)
  if shape.window is not None:
    made["T=16, C=1024, window"] = _program(shape, 16, 1024, shape.window)
  made["T=16, C=1024, paged"] = _paged_program(shape, 16, 1024)
  return made


def _paged_program(shape: ModelShape, rows: int, positions: int) -> Program:
  entries = positions // BLOCK
  attend, (query, _, _, at, sinks) = _program(shape, rows, positions, shape.window)
  pool = jax.ShapeDtypeStruct((rows * entries, shape.kv_heads, BLOCK, shape.head_dim), jnp.bfloat16)
  tables: Any = jax.ShapeDtypeStruct((rows, entries), jnp.int32)
  return attend, (query, pool, pool, at, sinks, BlockTables(tables, at))


def _program(shape: ModelShape, rows: int, capacity: int, window: int | None) -> Program:
  cache = jax.ShapeDtypeStruct((rows, shape.kv_heads, capacity, shape.head_dim), jnp.bfloat16)
  query = jax.ShapeDtypeStruct((rows, shape.heads, shape.head_dim), jnp.bfloat16)
  positions = jax.ShapeDtypeStruct((rows,), jnp.int32)
  sinks = jax.ShapeDtypeStruct((shape.heads,), jnp.bfloat16) if shape.sinks else None
  return functools.partial(_attend, window=window), (query, cache, cache, positions, sinks)


def _attend(
  query: Any, key: Any, value: Any, positions: Any, sinks: Any, blocks: Any = None, *, window: int | None
) -> Any:
  return decode_attention(query, key, value, positions, window=window, sinks=sinks, blocks=blocks)
