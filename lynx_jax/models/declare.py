"""Declares a decoder's parameters: each says its shape, its axes and its role once, where its module is built."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lynx_jax.placement import Declared, Role, dtype_of

# Standard deviation of fresh weights.
_DEVIATION = 0.02


class Declare:
  """Makes the parameters of one decoder.

  A parameter keeps its axes and its role as metadata of its nnx variable. Without `rngs` parameters are abstract
  (`jax.ShapeDtypeStruct`): nothing is drawn, allocated or traced.
  """

  def __init__(self, rngs: nnx.Rngs | None, dtype: Any):
    self._rngs = rngs
    self._dtype = jnp.dtype(dtype)

  def param(self, shape: tuple[int, ...], axes: str, role: Role) -> nnx.Param:
    """A parameter of that role; `axes` has one word for each axis of `shape`, such as "E F2 D"."""
    declared = Declared(shape=shape, axes=axes, role=role)
    return nnx.Param(self._fresh(declared), axes=declared.axes, role=declared.role)

  def bias(self, shape: tuple[int, ...], axes: str, *, present: bool) -> nnx.Param | None:
    """A bias initialised to zero, or None if `present` is false."""
    return self.param(shape, axes, Role.BIAS) if present else None

  def _fresh(self, declared: Declared) -> jax.Array | jax.ShapeDtypeStruct:
    dtype = dtype_of(declared.role, self._dtype)
    if self._rngs is None:
      return jax.ShapeDtypeStruct(declared.shape, dtype)
    match declared.role:
      case Role.NORM:
        return jnp.ones(declared.shape, dtype)
      case Role.BIAS | Role.SELECTION_BIAS:
        return jnp.zeros(declared.shape, dtype)
      case _:
        return _DEVIATION * jax.random.normal(self._rngs.params(), declared.shape, dtype)


def declaration_of(param: nnx.Variable) -> Declared:
  """What the parameter's module declared."""
  return Declared(shape=param.shape, axes=param.get_metadata("axes"), role=param.get_metadata("role"))
