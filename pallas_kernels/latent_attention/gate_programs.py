"""Attention over latents at the sizes of DeepSeek's models, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.block_tables import BLOCK, BlockTables
from pallas_kernels.latent_attention import latent_attention

Program = tuple[Callable[..., Any], tuple[Any, ...]]

# Heads; every released model caches 512 numbers of latent and 64 of rotary key.
HEADS = {"DeepSeek-V2-Lite": 16, "DeepSeek-V3": 128}
LATENT, ROTARY = 512, 64


def programs(heads: int) -> dict[str, Program]:
  """Many rows of a short cache, one row of a long one, which is split, and a pool of blocks."""
  sizes = ((16, 1024), (1, 8192), (64, 4096))
  made = {f"T={rows}, C={capacity}": _program(heads, rows, capacity) for rows, capacity in sizes}
  rows, capacity = sizes[0]
  attend, (query, _, positions) = _program(heads, rows, capacity)
  pool = jax.ShapeDtypeStruct((rows * capacity // BLOCK, BLOCK, LATENT + ROTARY), jnp.bfloat16)
  tables: Any = jax.ShapeDtypeStruct((rows, capacity // BLOCK), jnp.int32)
  paged = functools.partial(_over_blocks, attend), (query, pool, positions, BlockTables(tables, positions))
  return made | {f"T={rows}, C={capacity}, paged": paged}


def _over_blocks(attend: Callable[..., Any], query: Any, pool: Any, positions: Any, blocks: Any) -> Any:
  return attend(query, pool, positions, blocks=blocks)


def _program(heads: int, rows: int, capacity: int) -> Program:
  query = jax.ShapeDtypeStruct((rows, heads, LATENT + ROTARY), jnp.bfloat16)
  cache = jax.ShapeDtypeStruct((rows, capacity, LATENT + ROTARY), jnp.bfloat16)
  attend = functools.partial(latent_attention, value_width=LATENT, scale=192**-0.5)
  return attend, (query, cache, jax.ShapeDtypeStruct((rows,), jnp.int32))
