"""The products of a decode step at a released model's sizes, as programs to compile."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gates.forms import Held
from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.row_matmul import row_matmul, row_matmuls

Program = tuple[Callable[..., Any], tuple[Any, ...]]


def programs(shape: ModelShape, held: Held | None = None) -> dict[str, Program]:
  """Norm and query, key, value; norm and router; output projection and residual: for 16 rows and for 64.

  Weights are bfloat16 where `held` is None. Routers always are, and have no program where it is not.
  """
  width, heads, groups = shape.width, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
  made = {}
  for rows in (16, 64):
    x, scale = _bf16(rows, width), _bf16(width)
    weight = _bf16 if held is None else held.abstract
    qkv = tuple(weight(columns, width) for columns in (heads, groups, groups))
    made[f"norm, query, key, value, T={rows}"] = (_normed_each, (x, *qkv, scale))
    if held is None:
      made[f"norm, router, T={rows}"] = (_normed, (x, _bf16(shape.experts, width), scale))
    made[f"output, residual, T={rows}"] = (_added, (_bf16(rows, heads), weight(width, heads), x))
  return made


def _bf16(*sizes: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(sizes, jnp.bfloat16)


def _normed_each(x: Any, query: Any, key: Any, value: Any, scale: Any) -> Any:
  return row_matmuls(x, (query, key, value), norm_scale=scale, norm_eps=1e-6)


def _normed(x: Any, weight: Any, scale: Any) -> Any:
  return row_matmul(x, weight, norm_scale=scale, norm_eps=1e-6, dtype="float32")


def _added(x: Any, weight: Any, residual: Any) -> Any:
  return row_matmul(x, weight, residual_TO=residual)
