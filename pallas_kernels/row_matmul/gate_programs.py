"""The products of a decode step at a released model's sizes, as programs to compile."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.row_matmul import row_matmul

Program = tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]


def programs(shape: ModelShape) -> dict[str, Program]:
  """Norm and query projection, norm and router, output projection and residual: for 16 rows and for 64."""
  heads = shape.heads * shape.head_dim
  made = {}
  for rows in (16, 64):
    for name, inner, columns, dtype in (
      ("norm, queries", shape.width, heads, "bfloat16"),
      ("norm, router", shape.width, shape.experts, "float32"),
    ):
      made[f"{name}, T={rows}"] = (_normed(dtype), _arguments(rows, inner, columns))
    made[f"output, residual, T={rows}"] = (
      _added,
      (*_arguments(rows, heads, shape.width)[:2], _bf16(rows, shape.width)),
    )
  return made


def _bf16(*sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)


def _arguments(rows: int, inner: int, columns: int) -> tuple[jax.ShapeDtypeStruct, ...]:
  return _bf16(rows, inner), _bf16(columns, inner), _bf16(inner)


@functools.cache
def _normed(dtype: str) -> Callable[..., Any]:
  return lambda x, weight, scale: row_matmul(x, weight, norm_scale=scale, norm_eps=1e-6, dtype=dtype)


def _added(x: Any, weight: Any, residual: Any) -> Any:
  return row_matmul(x, weight, residual_TO=residual)
