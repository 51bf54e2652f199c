"""Products of a decode step's few rows with a weight, fused with the norm before and the additions after."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.gpu import triton_backend
from pallas_kernels.gpu.weight_products import READ
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions
from pallas_kernels.row_matmul.cpu import cpu_objection, row_matmul_cpu
from pallas_kernels.row_matmul.reference import row_matmul_reference
from pallas_kernels.row_matmul.triton import objection, row_matmul_triton
from pallas_kernels.weights.base import HeldWeight

__all__ = ["ROW_MATMUL", "row_matmul", "row_matmuls"]

ROW_MATMUL = Op(
  "row_matmul",
  (
    Implementation(
      "pallas",
      row_matmul_triton,
      "norm, product and residual in one kernel",
      (GPU,),
      objection,
      unavailable=triton_backend.unavailable,
      takes=READ,
    ),
    Implementation(
      "cpu",
      row_matmul_cpu,
      "norm, product and residual in native code",
      (CPU,),
      cpu_objection,
      unavailable=unavailable,
      takes=("int8", "int4"),
      bound=True,
    ),
    Implementation("reference", row_matmul_reference, "plain JAX, which XLA fuses as it can"),
  ),
)


def row_matmul(
  x_TI: Float[Array, "T I"],
  weight_OI: Float[Array, "O I"] | HeldWeight,
  *,
  norm_scale: Float[Array, "I"] | None = None,
  norm_eps: float = 0.0,
  bias: Float[Array, "O"] | None = None,
  residual_TO: Float[Array, "T O"] | None = None,
  used: Int32[Array, ""] | None = None,
  dtype: str | None = None,
  implementation: Choice = None,
) -> Float[Array, "T O"]:
  """Y = norm(x) @ weight.T + bias + residual, for the rows of a decode step.

  The norm is RMSNorm (arXiv 1910.07467) with a learned scale. It divides a row by one number, its root mean square, so
  a kernel may divide the product instead, and sum the squares while it multiplies.

  Args:
    x_TI: rows.
    weight_OI: stored [out, in], an array of `x`'s dtype or a `QuantizedWeight`.
    norm_scale: the norm's scale; None multiplies `x` as it is.
    norm_eps: added to the mean square.
    bias: added to every row.
    residual_TO: added to the result.
    used: rows that are asked for, the first ones; None is all. The others hold some finite numbers, or what a row that
      is not finite gives. Native code skips them, so a step that is not full takes less time.
    dtype: of the result; None is `x`'s.
    implementation: "pallas", "cpu", "reference", a list of these, or None for the best on the platform.

  Returns:
    [T, O], accumulated in float32.

  Raises:
    ValueError: shapes that do not fit each other, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these shapes.
  """
  (y,) = _run(x_TI, (weight_OI,), norm_scale, (bias,), residual_TO, used, norm_eps, dtype, implementation)
  return y


def row_matmuls(
  x_TI: Float[Array, "T I"],
  weights: Sequence[Float[Array, "_ I"] | HeldWeight],
  *,
  norm_scale: Float[Array, "I"] | None = None,
  norm_eps: float = 0.0,
  biases: Sequence[Float[Array, "_"] | None] | None = None,
  used: Int32[Array, ""] | None = None,
  dtype: str | None = None,
  implementation: Choice = None,
) -> tuple[Float[Array, "T _"], ...]:
  """`row_matmul` of the same rows with several weights, in one launch, such as query, key and value."""
  biases = (None,) * len(weights) if biases is None else tuple(biases)
  return _run(x_TI, tuple(weights), norm_scale, biases, None, used, norm_eps, dtype, implementation)


def _run(x, weights, norm_scale, biases, residual, used, norm_eps, dtype, implementation):
  for weight in weights:
    if x.shape[1] != weight.shape[1]:
      raise ValueError(f"x {x.shape} and weight {weight.shape} do not fit: expected [T, I] and [O, I]")
  arrays = RowArrays(x, weights, norm_scale, biases, residual, used)
  options = RowOptions(norm_eps=float(norm_eps), dtype=jnp.dtype(dtype or x.dtype).name)
  return ROW_MATMUL(implementation, arrays, options=options)
