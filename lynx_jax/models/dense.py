"""The dense feed-forward part: one SwiGLU network that every token runs."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from lynx_jax.models.declare import Declare
from lynx_jax.models.linear import normed_matmul, weight
from lynx_jax.models.norms import Norm
from lynx_jax.models.parts import ExpertChoice
from lynx_jax.placement import Role
from pallas_kernels import row_matmul
from pallas_kernels.activations import SWIGLU
from pallas_kernels.checks import whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DenseSpec:
  """A network of `width` hidden values (F)."""

  width: int

  def __post_init__(self) -> None:
    whole_fields(self, "width", least=1)

  def build(self, width: int, declare: Declare) -> "Dense":
    """The network's weights, in a model of that width."""
    return Dense(width, self, declare)


class Dense(nnx.Module):
  """SwiGLU (arXiv 2002.05202): gate_up [2F, D] (gate rows first), down [D, F]."""

  def __init__(self, width: int, spec: DenseSpec, declare: Declare):
    self.gate_up = declare.param((2 * spec.width, width), "F2 D", Role.PROJECTION)
    self.down = declare.param((width, spec.width), "D F", Role.PROJECTION)

  def __call__(
    self, x_TD: Float[Array, "T D"], norm: Norm, used: Int32[Array, ""] | None = None
  ) -> Float[Array, "T D"]:
    """The network's output for normed rows, in `x`'s dtype; `used` as for `row_matmul`."""
    gate, up = jnp.split(normed_matmul(x_TD, norm, self.gate_up, used=used, dtype="float32"), 2, axis=-1)
    return row_matmul(SWIGLU(gate, up).astype(x_TD.dtype), weight(self.down), used=used)

  def feed(self, x_TD: Float[Array, "T D"], norm: Norm, choice: ExpertChoice) -> tuple[Float[Array, "T D"], None]:
    """As `__call__`: a dense part has no experts to choose."""
    return self(x_TD, norm, choice.used), None
