"""An MoE layer's experts at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.activations import ClampedSwiGLU
from pallas_kernels.expert_ffn import DECODE_TILE, expert_ffn, tile_rows
from pallas_kernels.gates.forms import Held
from pallas_kernels.gates.shapes import ModelShape

Program = tuple[Callable[..., Any], tuple[Any, ...]]
_Abstract = jax.ShapeDtypeStruct


def programs(shape: ModelShape, held: Held | None = None) -> dict[str, Program]:
  """Decode with 16 and 64 rows grouped by routing, and a prefill of 2048 rows; in bfloat16 where `held` is None."""
  made: dict[str, Program] = {
    f"decode, T={rows}": (_run, (*_arguments(shape, rows, held), _tiles(shape, rows), *_biases(shape)))
    for rows in (16, 64)
  }
  made["prefill, T=2048"] = (_run, (*_arguments(shape, 2048, held), None, *_biases(shape)))
  return made


def _arguments(shape: ModelShape, rows: int, held: Held | None) -> tuple[Any, ...]:
  experts, width, expert_width = shape.experts, shape.width, shape.expert_width
  stacks = (experts, 2 * expert_width, width), (experts, width, expert_width)
  return (
    _Abstract((rows, width), jnp.bfloat16),
    _Abstract((rows, shape.top_k), jnp.int32),
    _Abstract((rows, shape.top_k), jnp.float32),
    *(_Abstract(stack, jnp.bfloat16) if held is None else held.abstract(*stack) for stack in stacks),
    _Abstract((rows,), jnp.bool_),
  )


def _tiles(shape: ModelShape, rows: int) -> Any:
  ids, valid = _Abstract((rows, shape.top_k), jnp.int32), _Abstract((rows,), jnp.bool_)
  return jax.eval_shape(functools.partial(tile_rows, experts=shape.experts, tile=DECODE_TILE), ids, valid)


def _biases(shape: ModelShape) -> tuple[jax.ShapeDtypeStruct, ...]:
  if not shape.biased:
    return ()
  return (
    _Abstract((shape.experts, 2 * shape.expert_width), jnp.bfloat16),
    _Abstract((shape.experts, shape.width), jnp.bfloat16),
  )


def _run(x: Any, ids: Any, weights: Any, gate_up: Any, down: Any, valid: Any, tiles: Any, *biases: Any) -> Any:
  if not biases:
    return expert_ffn(x, ids, weights, gate_up, down, valid=valid, tiles=tiles)
  more = dict(zip(("gate_up_bias", "down_bias"), biases, strict=True))
  activation = ClampedSwiGLU(alpha=1.702, limit=7.0)
  return expert_ffn(x, ids, weights, gate_up, down, valid=valid, tiles=tiles, **more, activation=activation)
