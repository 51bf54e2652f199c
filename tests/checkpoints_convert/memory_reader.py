"""A reader of arrays that are in memory, for formats to be tested without files."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from checkpoints_convert.dtypes import CODES
from checkpoints_convert.reader import Reader


class MemoryReader(Reader):
  """Arrays by name."""

  def __init__(self, arrays: Mapping[str, np.ndarray]):
    self.arrays, self.directory = arrays, Path("memory")
    self.shapes = {name: array.shape for name, array in arrays.items()}
    self.dtypes = {name: CODES[array.dtype] for name, array in arrays.items()}
    self.files = dict.fromkeys(arrays, "memory")

  def unlisted_files(self) -> list[str]:
    """None."""
    return []

  def _header(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    yield from ()

  def read(self, name: str) -> np.ndarray:
    """The array."""
    return self.arrays[name]
