"""Attention of a decode step at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.decode_attention import decode_attention
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def programs(shape: ModelShape) -> dict[str, Program]:
  """Many rows of a short cache, one row of a long one, and the sliding window where the model has one."""
  made = {
    f"T={rows}, C={capacity}": _program(shape, rows, capacity, None) for rows, capacity in ((16, 1024), (1, 8192))
  }
  made["T=64, C=4096"] = _program(shape, 64, 4096, None)
  if shape.window is not None:
    made["T=16, C=1024, window"] = _program(shape, 16, 1024, shape.window)
  return made


def _program(shape: ModelShape, rows: int, capacity: int, window: int | None) -> Program:
  cache = jax.ShapeDtypeStruct((rows, shape.kv_heads, capacity, shape.head_dim), jnp.bfloat16)
  query = jax.ShapeDtypeStruct((rows, shape.heads, shape.head_dim), jnp.bfloat16)
  positions = jax.ShapeDtypeStruct((rows,), jnp.int32)
  sinks = jax.ShapeDtypeStruct((shape.heads,), jnp.bfloat16) if shape.sinks else None
  return functools.partial(_attend, window=window), (query, cache, cache, positions, sinks)


def _attend(query: Any, key: Any, value: Any, positions: Any, sinks: Any, *, window: int | None) -> Any:
  return decode_attention(query, key, value, positions, window=window, sinks=sinks)
