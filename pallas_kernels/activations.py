"""Activations between an expert's two products: functions of gate and up values, hashable, so that they are static."""

import dataclasses
from typing import TypeAlias

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, slots=True)
class SwiGLU:
  """silu(gate) * up (arXiv 2002.05202)."""

  def __call__(self, gate: jax.Array, up: jax.Array) -> jax.Array:
    """Applies the activation elementwise, in float32."""
    return gate * jax.nn.sigmoid(gate) * up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ClampedSwiGLU:
  """gate * sigmoid(alpha * gate) * (up + 1), gate bounded above and up on both sides (gpt-oss, arXiv 2508.10925).

  Attributes:
    alpha: gain of the sigmoid.
    limit: the bound.
  """

  alpha: float
  limit: float

  def __post_init__(self) -> None:
    if self.limit <= 0:
      raise ValueError(f"ClampedSwiGLU.limit is {self.limit!r}: expected a positive bound")

  def __call__(self, gate: jax.Array, up: jax.Array) -> jax.Array:
    """Applies the activation elementwise, in float32."""
    gate = jnp.minimum(gate, self.limit)
    up = jnp.minimum(jnp.maximum(up, -self.limit), self.limit)
    return gate * jax.nn.sigmoid(self.alpha * gate) * (up + 1.0)


Activation: TypeAlias = SwiGLU | ClampedSwiGLU

SWIGLU = SwiGLU()
