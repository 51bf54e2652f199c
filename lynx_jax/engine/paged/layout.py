"""Several small arrays as one array of integers: one transfer between host and device in place of many.

Floats travel as their bits, flags as 0 and 1.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

Kind: TypeAlias = Literal["int", "float", "flag"]
NamedShape: TypeAlias = tuple[str, tuple[int, ...], Kind]
"""Name, shape and kind of a field."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
  """One array in the packed one.

  Attributes:
    name: what it is read by.
    shape: its sizes.
    kind: whether its integers are numbers, the bits of float32, or flags.
    first: its place in the packed array.
  """

  name: str
  shape: tuple[int, ...]
  kind: Kind
  first: int

  @property
  def end(self) -> int:
    """The place behind its last integer."""
    return self.first + math.prod(self.shape)


class Layout:
  """The places of the fields, in the order given."""

  def __init__(self, fields: Sequence[NamedShape]):
    self.fields: list[Field] = []
    for name, shape, kind in fields:
      self.fields.append(Field(name, shape, kind, self.size))
    self._by_name = {field.name: field for field in self.fields}

  @property
  def size(self) -> int:
    """Integers of the packed array."""
    return self.fields[-1].end if self.fields else 0

  def __contains__(self, name: str) -> bool:
    return name in self._by_name

  def view(self, packed: np.ndarray, name: str) -> np.ndarray:
    """One field of a packed array on the host, to read or to fill; flags read as integers."""
    field = self._by_name[name]
    return _as_kind(packed[field.first : field.end].reshape(field.shape), field.kind)

  def views(self, packed: np.ndarray) -> dict[str, np.ndarray]:
    """All fields of a packed array on the host, by name, as `view` gives them."""
    return {field.name: self.view(packed, field.name) for field in self.fields}

  def unpack(self, packed: Int32[Array, "I"]) -> dict[str, jax.Array]:
    """The fields of a packed array, inside a program."""
    parts = {}
    for field in self.fields:
      part = packed[field.first : field.end].reshape(field.shape)
      if field.kind == "float":
        part = jax.lax.bitcast_convert_type(part, jnp.float32)
      parts[field.name] = part != 0 if field.kind == "flag" else part
    return parts

  def pack(self, parts: Mapping[str, jax.Array]) -> Int32[Array, "I"]:
    """One array of all fields, inside a program."""
    flat = []
    for field in self.fields:
      part = parts[field.name]
      bits = jax.lax.bitcast_convert_type(part, jnp.int32) if field.kind == "float" else part.astype(jnp.int32)
      flat.append(bits.reshape(-1))
    return jnp.concatenate(flat)


def _as_kind(view: np.ndarray, kind: Kind) -> np.ndarray:
  return view.view(np.float32) if kind == "float" and view.size else view
