"""Products of normed rows with a module's weights."""

from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float, Int32

from lynx_jax.models.norms import Norm, RMSNorm
from pallas_kernels import row_matmuls
from pallas_kernels.weights.base import Weight


def array_of(param: nnx.Param | None) -> jax.Array | None:
  """The parameter's array, if there is a parameter."""
  return None if param is None else param[...]


def weight(param: nnx.Param) -> Weight:
  """The parameter's weight: a plain array, or an array type that stands for one."""
  return param.get_value()


def normed_matmuls(
  x_TD: Float[Array, "T D"],
  norm: Norm,
  weights: Sequence[nnx.Param],
  biases: Sequence[nnx.Param | None] | None = None,
  *,
  used: Int32[Array, ""] | None = None,
  dtype: str | None = None,
) -> tuple[Float[Array, "T _"], ...]:
  """norm(x) @ weight.T + bias for each weight [O, D]; an `RMSNorm` is computed in the products' own launch.

  `used` as for `row_matmul`.
  """
  arrays = [weight(param) for param in weights]
  added = None if biases is None else [array_of(param) for param in biases]
  if isinstance(norm, RMSNorm):
    scale, eps = norm.scale[...], norm.eps
    return row_matmuls(x_TD, arrays, norm_scale=scale, norm_eps=eps, biases=added, used=used, dtype=dtype)
  return row_matmuls(norm(x_TD), arrays, biases=added, used=used, dtype=dtype)


def normed_matmul(
  x_TD: Float[Array, "T D"],
  norm: Norm,
  weight_OD: nnx.Param,
  bias_O: nnx.Param | None = None,
  *,
  used: Int32[Array, ""] | None = None,
  dtype: str | None = None,
) -> Float[Array, "T O"]:
  """`normed_matmuls` with one weight."""
  (y,) = normed_matmuls(x_TD, norm, [weight_OD], [bias_O], used=used, dtype=dtype)
  return y
