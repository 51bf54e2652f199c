"""The same steps one by one."""

from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.rms_norm import rms_norm_reference
from pallas_kernels.weights.base import Weight, factor, scaled


def row_matmul_reference(
  x: jax.Array,
  weights: tuple[Weight, ...],
  norm_scale: jax.Array | None,
  biases: tuple[jax.Array | None, ...],
  residual: jax.Array | None,
  *,
  norm_eps: float,
  dtype: Any,
) -> tuple[jax.Array, ...]:
  """`row_matmul` with each weight; a normed row is rounded to `x`'s dtype, as models do."""
  if norm_scale is not None:
    x = rms_norm_reference(x, norm_scale, norm_eps)
  results = []
  for weight, bias in zip(weights, biases, strict=True):
    y = scaled(jnp.einsum("ti,oi->to", x, factor(weight, x.dtype), preferred_element_type=jnp.float32), weight)
    for added in (None if bias is None else bias[None, :], residual):
      if added is not None:
        y = y + added.astype(jnp.float32)
    results.append(y.astype(dtype))
  return tuple(results)
