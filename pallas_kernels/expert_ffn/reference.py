"""Every expert over every row, then the weighted sum: slow, and plainly right."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

from pallas_kernels.activations import SWIGLU, Activation
from pallas_kernels.weights.base import HeldWeight, factor, scaled


def expert_ffn_reference(
  x_TD: Float[Array, "T D"],
  ids_TK: Int32[Array, "T K"],
  weights_TK: Float32[Array, "T K"],
  gate_up: Num[Array, "E F2 D"] | HeldWeight,
  down: Num[Array, "E D F"] | HeldWeight,
  valid_T: Bool[Array, "T"],
  gate_up_bias: Float[Array, "E F2"] | None = None,
  down_bias: Float[Array, "E D"] | None = None,
  *,
  activation: Activation = SWIGLU,
) -> Float[Array, "T D"]:
  """`expert_ffn` in T*E*F memory and E / K times its arithmetic."""
  rows = jnp.arange(x_TD.shape[0])[:, None]
  x = jnp.where(valid_T[:, None], x_TD, jnp.zeros_like(x_TD))
  weights = jnp.where(valid_T[:, None], weights_TK, 0.0)
  share_TE = jnp.zeros((x.shape[0], gate_up.shape[0]), jnp.float32).at[rows, ids_TK].add(weights)
  gate_up_TEF = jnp.einsum("td,efd->tef", x, factor(gate_up, x.dtype), preferred_element_type=jnp.float32)
  gate_up_TEF = scaled(gate_up_TEF, gate_up)
  if gate_up_bias is not None:
    gate_up_TEF += gate_up_bias.astype(jnp.float32)[None]
  hidden = activation(*jnp.split(gate_up_TEF, 2, axis=-1)).astype(x.dtype)
  y_TED = scaled(jnp.einsum("tef,edf->ted", hidden, factor(down, x.dtype), preferred_element_type=jnp.float32), down)
  if down_bias is not None:
    y_TED += down_bias.astype(jnp.float32)[None]
  # An expert that no row uses may hold anything, NaN too.
  y_TED = jnp.where((share_TE != 0)[:, :, None], y_TED, 0.0)
  return jnp.einsum("ted,te->td", y_TED, share_TE).astype(x_TD.dtype)
