"""An MoE layer's experts at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.expert_ffn import DECODE_TILE, expert_ffn, tile_rows
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]
_Abstract = jax.ShapeDtypeStruct


def programs(shape: ModelShape) -> dict[str, Program]:
  """Decode with 16 and 64 rows grouped by routing, and a prefill of 2048 rows."""
  made: dict[str, Program] = {
    f"decode, T={rows}": (_decode, (*_arguments(shape, rows), _tiles(shape, rows))) for rows in (16, 64)
  }
  made["prefill, T=2048"] = (_prefill, _arguments(shape, 2048))
  return made


def _arguments(shape: ModelShape, rows: int) -> tuple[jax.ShapeDtypeStruct, ...]:
  experts, width, expert_width = shape.experts, shape.width, shape.expert_width
  return (
    _Abstract((rows, width), jnp.bfloat16),
    _Abstract((rows, shape.top_k), jnp.int32),
    _Abstract((rows, shape.top_k), jnp.float32),
    _Abstract((experts, 2 * expert_width, width), jnp.bfloat16),
    _Abstract((experts, width, expert_width), jnp.bfloat16),
    _Abstract((rows,), jnp.bool_),
  )


def _tiles(shape: ModelShape, rows: int) -> Any:
  ids, valid = _Abstract((rows, shape.top_k), jnp.int32), _Abstract((rows,), jnp.bool_)
  return jax.eval_shape(functools.partial(tile_rows, experts=shape.experts, tile=DECODE_TILE), ids, valid)


def _decode(x: Any, ids: Any, weights: Any, gate_up: Any, down: Any, valid: Any, tiles: Any) -> Any:
  return expert_ffn(x, ids, weights, gate_up, down, valid=valid, tiles=tiles)


def _prefill(x: Any, ids: Any, weights: Any, gate_up: Any, down: Any, valid: Any) -> Any:
  return expert_ffn(x, ids, weights, gate_up, down, valid=valid)
