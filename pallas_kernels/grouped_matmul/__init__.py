"""One product for each group of sorted rows: what a prefill's experts are made of."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from pallas_kernels.dispatch import GPU, Choice, Implementation, Op
from pallas_kernels.grouped_matmul.reference import grouped_matmul_reference
from pallas_kernels.grouped_matmul.triton import grouped_matmul_triton, objection

__all__ = ["GROUPED_MATMUL", "grouped_matmul"]

GROUPED_MATMUL = Op(
  "grouped_matmul",
  (
    Implementation("pallas", grouped_matmul_triton, "tiles of one group's rows", (GPU,), objection),
    Implementation("reference", grouped_matmul_reference, "lax.ragged_dot, which is dense on GPUs"),
  ),
)


def grouped_matmul(
  x_SI: Float[Array, "S I"],
  weights_EOI: Float[Array, "E O I"],
  sizes_E: Int32[Array, "E"],
  *,
  implementation: Choice = None,
) -> Float[Array, "S O"]:
  """y[s] = weights[g] @ x[s], where g is the group that row s belongs to: rows are sorted by group.

  Weights of a group without rows are not read.

  Args:
    x_SI: rows, those of the first group first.
    weights_EOI: one weight a group, stored [out, in], in `x`'s dtype.
    sizes_E: rows of each group; rows past their sum give zeros.
    implementation: "pallas", "reference", or None for the best on the platform.

  Returns:
    [S, O] in `x`'s dtype, accumulated in float32.

  Raises:
    ValueError: shapes that do not fit each other, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these dtypes.
  """
  if x_SI.shape[1] != weights_EOI.shape[2] or sizes_E.shape[0] != weights_EOI.shape[0]:
    raise ValueError(
      f"x {x_SI.shape}, weights {weights_EOI.shape} and sizes {sizes_E.shape} do not fit: "
      "expected [S, I], [E, O, I] and [E]"
    )
  return GROUPED_MATMUL(implementation, x_SI, weights_EOI, sizes_E.astype(jnp.int32))
