"""`row_matmul` in plain JAX, one step after another."""

import jax
import jax.numpy as jnp

from pallas_kernels.rms_norm import rms_norm_reference
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions
from pallas_kernels.weights.base import factor, scaled


def row_matmul_reference(arrays: RowArrays, *, options: RowOptions) -> tuple[jax.Array, ...]:
  """`row_matmul` in plain JAX. A normed row is rounded to `x`'s dtype, as models do."""
  x = arrays.x
  if arrays.norm_scale is not None:
    x = rms_norm_reference(x, arrays.norm_scale, options.norm_eps)
  results = []
  for weight, bias in zip(arrays.weights, arrays.biases, strict=True):
    y = scaled(jnp.einsum("ti,oi->to", x, factor(weight, x.dtype), preferred_element_type=jnp.float32), weight)
    for added in (None if bias is None else bias[None, :], arrays.residual):
      if added is not None:
        y = y + added.astype(jnp.float32)
    results.append(y.astype(options.dtype))
  return tuple(results)
