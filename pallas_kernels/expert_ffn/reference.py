"""`expert_ffn` by its definition: every expert over every row, then the weighted sum. It is slow."""

import jax
import jax.numpy as jnp

from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.weights.base import factor, scaled


def expert_ffn_reference(arrays: ExpertArrays, *, options: ExpertOptions) -> jax.Array:
  """`expert_ffn` in T*E*F memory and E / K times its arithmetic."""
  gate_up, down, valid_T = arrays.gate_up, arrays.down, arrays.valid
  rows = jnp.arange(arrays.x.shape[0])[:, None]
  x = jnp.where(valid_T[:, None], arrays.x, jnp.zeros_like(arrays.x))
  weights = jnp.where(valid_T[:, None], arrays.weights, 0.0)
  share_TE = jnp.zeros((x.shape[0], gate_up.shape[0]), jnp.float32).at[rows, arrays.ids].add(weights)
  gate_up_TEF = jnp.einsum("td,efd->tef", x, factor(gate_up, x.dtype), preferred_element_type=jnp.float32)
  gate_up_TEF = scaled(gate_up_TEF, gate_up)
  if arrays.gate_up_bias is not None:
    gate_up_TEF += arrays.gate_up_bias.astype(jnp.float32)[None]
  hidden = options.activation(*jnp.split(gate_up_TEF, 2, axis=-1)).astype(x.dtype)
  y_TED = scaled(jnp.einsum("tef,edf->ted", hidden, factor(down, x.dtype), preferred_element_type=jnp.float32), down)
  if arrays.down_bias is not None:
    y_TED += arrays.down_bias.astype(jnp.float32)[None]
  # An expert that no row uses may hold anything, even NaN.
  y_TED = jnp.where((share_TE != 0)[:, :, None], y_TED, 0.0)
  return jnp.einsum("ted,te->td", y_TED, share_TE).astype(x.dtype)
