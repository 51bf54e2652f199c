"""`append_latents` at the sizes of DeepSeek's models, as programs to compile; the cache is donated."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.append_latents import append_latents
from pallas_kernels.block_tables import BLOCK, BlockTables

Program = tuple[Callable[..., Any], tuple[Any, ...]]

CACHES = (1,)
"""Positions of the arguments that are caches."""
# Every released model caches 512 numbers of latent and 64 of rotary key.
WIDTH = 576


def programs() -> dict[str, Program]:
  """A step of 16 rows into dense caches, and one of 512 rows into a pool of blocks."""
  made = {}
  for name, rows, cache in (("dense", 16, (16, 1024)), ("paged", 512, (4096, BLOCK))):
    latent, whole = (jax.ShapeDtypeStruct((*size, WIDTH), jnp.bfloat16) for size in ((rows,), cache))
    tables: Any = jax.ShapeDtypeStruct((64, 128), jnp.int32)
    at: Any = jax.ShapeDtypeStruct((rows,), jnp.int32)
    blocks = BlockTables(tables, at) if name == "paged" else None
    made[f"T={rows}, {name}"] = _append, (latent, whole, at, blocks)
  return made


def _append(latent: Any, cache: Any, positions: Any, blocks: Any) -> Any:
  return append_latents(latent, cache, positions, blocks=blocks)
