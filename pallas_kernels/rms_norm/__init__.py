"""Root-mean-square normalisation (arXiv 1910.07467), where it is not part of the product that follows it."""

from jaxtyping import Array, Float

from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, Choice, Implementation, Op
from pallas_kernels.rms_norm.cpu import cpu_objection, rms_norm_cpu
from pallas_kernels.rms_norm.reference import rms_norm_reference

__all__ = ["RMS_NORM", "rms_norm", "rms_norm_reference"]

RMS_NORM = Op(
  "rms_norm",
  (
    Implementation("cpu", rms_norm_cpu, "one native call", (CPU,), cpu_objection, unavailable=unavailable, bound=True),
    Implementation("reference", rms_norm_reference, "plain JAX, which XLA fuses as it can"),
  ),
)


def rms_norm(
  x: Float[Array, "*rows D"], scale: Float[Array, "D"], eps: float, *, implementation: Choice = None
) -> Float[Array, "*rows D"]:
  """Rows over their root mean squares, times `scale`: computed in float32, returned in `x`'s dtype.

  Args:
    x: rows of D values.
    scale: learned, a factor a column.
    eps: added to the mean square.
    implementation: "cpu", "reference", or None for the best on the platform.

  Raises:
    ValueError: shapes that do not fit each other, or an unknown implementation.
    NotImplementedError: the named implementation cannot take these arguments.
  """
  if scale.shape != x.shape[-1:]:
    raise ValueError(f"x {x.shape} and scale {scale.shape} do not fit: expected [..., D] and [D]")
  return RMS_NORM(implementation, x, scale, eps=float(eps))
