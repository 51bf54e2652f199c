"""`append_heads` at released models' sizes, as programs to compile; the caches are donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.append_heads import append_heads
from pallas_kernels.block_tables import BLOCK, BlockTables
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]
CACHES = (3, 4)
"""Positions of the arguments that are caches."""


def programs(shape: ModelShape) -> dict[str, Program]:
  """Programs for 16 and 64 rows, without a norm and with one over each head, and one for 512 rows of a paged cache."""
  made: dict[str, Program] = {
    f"T={rows}{', head norm' if normed else ''}": (_normed if normed else _plain, _arguments(shape, rows, normed))
    for rows in (16, 64)
    for normed in (False, True)
  }
  rows = 512
  tables: Any = jax.ShapeDtypeStruct((64, 128), jnp.int32)
  slots: Any = jax.ShapeDtypeStruct((rows,), jnp.int32)
  pool = jax.ShapeDtypeStruct((4096, shape.kv_heads, BLOCK, shape.head_dim), jnp.bfloat16)
  dense = _arguments(shape, rows, True)
  paged = (*dense[: CACHES[0]], pool, pool, *dense[CACHES[-1] + 1 :], BlockTables(tables, slots))
  return made | {f"T={rows}, head norm, paged": (_normed, paged)}


def _arguments(shape: ModelShape, rows: int, normed: bool) -> tuple[jax.ShapeDtypeStruct, ...]:
  def bf16(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)

  width, groups, heads = shape.head_dim, shape.kv_heads, shape.heads
  cache = bf16(rows, groups, 1024, width)
  positions = jax.ShapeDtypeStruct((rows,), jnp.int32)
  rotation = jax.ShapeDtypeStruct((rows, width // 2), jnp.float32)
  key = bf16(rows, groups * width)
  norms = (bf16(width), bf16(width)) if normed else ()
  return (bf16(rows, heads * width), key, key, cache, cache, positions, rotation, rotation, *norms)


def _plain(*args: Any) -> Any:
  return append_heads(*args)


def _normed(*args: Any) -> Any:
  return append_heads(*args[:8], query_norm=args[8], key_norm=args[9], norm_eps=1e-6, blocks=(*args[10:], None)[0])
