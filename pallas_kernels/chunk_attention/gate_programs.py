"""Attention of prompt chunks at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK
from pallas_kernels.chunk_attention import QueryTiles, chunk_attention, most_query_tiles
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]

ROWS, SLOTS, CONTEXT = 512, 64, 4096
"""Rows of a step, slots, and positions of a slot's table."""
# Heads of models with latents; every released one caches 512 numbers of latent and 64 of rotary key.
LATENT_HEADS = {"DeepSeek-V2-Lite": 16, "DeepSeek-V3": 128}
LATENT, ROTARY = 512, 64


def programs(shape: ModelShape) -> dict[str, Program]:
  """A mixed step, and the sliding window where the model has one."""
  made = {"whole context": _program(shape, None)}
  if shape.window is not None:
    made["window"] = _program(shape, shape.window)
  return made


def latent_program(heads: int) -> Program:
  """A mixed step over latents."""
  query = jax.ShapeDtypeStruct((ROWS, heads, LATENT + ROTARY), jnp.bfloat16)
  pool = jax.ShapeDtypeStruct((SLOTS * CONTEXT // BLOCK, 1, BLOCK, LATENT + ROTARY), jnp.bfloat16)
  attend = functools.partial(chunk_attention, scale=192**-0.5, value_width=LATENT)
  return attend, (query, pool, None, *_tiles_and_tables())


def _program(shape: ModelShape, window: int | None) -> Program:
  query = jax.ShapeDtypeStruct((ROWS, shape.heads, shape.head_dim), jnp.bfloat16)
  pool = jax.ShapeDtypeStruct((SLOTS * CONTEXT // BLOCK, shape.kv_heads, BLOCK, shape.head_dim), jnp.bfloat16)
  sinks = jax.ShapeDtypeStruct((shape.heads,), jnp.bfloat16) if shape.sinks else None
  return functools.partial(_attend, window=window), (query, pool, pool, *_tiles_and_tables(), sinks)


def _attend(query: Any, key: Any, value: Any, tiles: Any, tables: Any, sinks: Any, *, window: int | None) -> Any:
  return chunk_attention(query, key, value, tiles, tables, window=window, sinks=sinks)


def _tiles_and_tables() -> tuple[QueryTiles, jax.ShapeDtypeStruct]:
  tile: Any = jax.ShapeDtypeStruct((most_query_tiles(ROWS, SLOTS),), jnp.int32)
  return QueryTiles(tile, tile, tile, tile), jax.ShapeDtypeStruct((SLOTS, CONTEXT // BLOCK), jnp.int32)
