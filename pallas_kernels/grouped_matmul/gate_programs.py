"""The first product of a prefill's experts at a released model's sizes, as a program to compile."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.grouped_matmul import grouped_matmul

Program = tuple[Callable[..., Any], tuple[jax.ShapeDtypeStruct, ...]]


def programs(shape: ModelShape) -> dict[str, Program]:
  """Gate and up of 2048 rows, each sorted by its `top_k` experts."""
  x = jax.ShapeDtypeStruct((2048 * shape.top_k, shape.width), jnp.bfloat16)
  weights = jax.ShapeDtypeStruct((shape.experts, 2 * shape.expert_width, shape.width), jnp.bfloat16)
  return {"prefill, T=2048": (grouped_matmul, (x, weights, jax.ShapeDtypeStruct((shape.experts,), jnp.int32)))}
