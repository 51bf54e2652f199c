"""Experts for training: rows dispatched into one buffer an expert, two batched products, gradients by JAX."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from pallas_kernels.activations import SWIGLU, Activation


def capacity_ffn(
  x_TD: Float[Array, "T D"],
  ids_TK: Int32[Array, "T K"],
  weights_TK: Float32[Array, "T K"],
  gate_up: Float[Array, "E F2 D"],
  down: Float[Array, "E D F"],
  capacity: int,
  *,
  gate_up_bias: Float[Array, "E F2"] | None = None,
  down_bias: Float[Array, "E D"] | None = None,
  activation: Activation = SWIGLU,
) -> tuple[Float[Array, "T D"], Int32[Array, ""]]:
  """Weighted sum of each row's experts, as `expert_ffn`, of at most `capacity` assignments an expert.

  Assignments past an expert's capacity, in row order, are dropped (arXiv 2101.03961, section 2.2): they add nothing.

  Returns:
    The sum, in `x`'s dtype, and how many assignments were dropped.
  """
  rows, top_k = ids_TK.shape
  experts, width = gate_up.shape[0], x_TD.shape[1]
  flat = ids_TK.reshape(-1)
  chosen = jax.nn.one_hot(flat, experts, dtype=jnp.int32)
  place = jnp.sum((jnp.cumsum(chosen, axis=0) - 1) * chosen, axis=1)
  kept = place < capacity
  seat = jnp.where(kept, flat * capacity + place, experts * capacity)
  row_of = jnp.full((experts * capacity,), rows, jnp.int32)
  row_of = row_of.at[seat].set(jnp.arange(rows * top_k, dtype=jnp.int32) // top_k, mode="drop")
  x = jnp.concatenate([x_TD, jnp.zeros((1, width), x_TD.dtype)])[row_of].reshape(experts, capacity, width)
  hidden = _with(gate_up_bias, jnp.einsum("ecd,efd->ecf", x, gate_up, preferred_element_type=jnp.float32))
  hidden = activation(*jnp.split(hidden, 2, axis=-1)).astype(x_TD.dtype)
  y = _with(down_bias, jnp.einsum("ecf,edf->ecd", hidden, down, preferred_element_type=jnp.float32))
  y = jnp.concatenate([y.reshape(-1, width), jnp.zeros((1, width), jnp.float32)])[seat].reshape(rows, top_k, width)
  weights = weights_TK * kept.reshape(rows, top_k).astype(jnp.float32)
  y_TD = (y * weights[:, :, None]).sum(axis=1).astype(x_TD.dtype)
  return y_TD, jnp.sum(~kept, dtype=jnp.int32)


def _with(bias_EO: jax.Array | None, y_ECO: jax.Array) -> jax.Array:
  return y_ECO if bias_EO is None else y_ECO + bias_EO.astype(jnp.float32)[:, None]
