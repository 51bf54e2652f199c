"""Parameters that are made only when they are asked for, so that a conversion never holds a whole model."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from checkpoints_convert.packed_rules import Held, nbytes
from checkpoints_convert.rules import Shapes

# Several small parameters are read and written together: each request has a cost of its own.
GROUP_BYTES = 64 << 20

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
  """A model's parameters.

  Attributes:
    shapes: their shapes, by path.
    dtypes: their dtypes, by path.
    read: makes those of some paths and yields each with its path, in any order: arrays, and a `QuantizedWeight` of
      arrays for each that is in `held`.
    held: those that are quantised, by path, as shapes and dtypes.
  """

  shapes: Shapes
  dtypes: Mapping[str, np.dtype]
  read: Callable[[Collection[str]], Iterator[tuple[str, Any]]]
  held: Held = dataclasses.field(default_factory=dict)

  def nbytes(self, paths: Iterable[str]) -> int:
    """Bytes of the parameters of `paths`."""
    plain = {path: math.prod(self.shapes[path]) * self.dtypes[path].itemsize for path in paths if path not in self.held}
    return sum(plain.values()) + sum(nbytes(self.held[path]) for path in paths if path in self.held)


def in_memory(arrays: Mapping[str, Any]) -> Parameters:
  """NumPy or JAX arrays, by path, as parameters."""
  return Parameters(
    shapes={path: tuple(array.shape) for path, array in arrays.items()},
    dtypes={path: np.dtype(array.dtype) for path, array in arrays.items()},
    read=lambda paths: ((path, np.asarray(arrays[path])) for path in paths),
  )


def groups(items: Iterable[Item], size: Callable[[Item], int], limit: int | None = None) -> Iterator[list[Item]]:
  """The items in order, in lists of at most `limit` bytes each, or of one item that is larger.

  Without a limit, that of a group of parameters holds: `GROUP_BYTES`.
  """
  limit = GROUP_BYTES if limit is None else limit
  group: list[Item] = []
  filled = 0
  for item in items:
    if group and filled + size(item) > limit:
      yield group
      group, filled = [], 0
    group.append(item)
    filled += size(item)
  if group:
    yield group
