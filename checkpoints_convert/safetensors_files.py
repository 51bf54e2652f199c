"""Reads safetensors files, without torch."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from checkpoints_convert.dtypes import STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.reader import Reader, corrupt

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class SafetensorsReader(Reader):
  """Checks a file with the safetensors library, and reads its data by offset.

  The library's NumPy side has no 8-bit floats, and it maps the file, whose pages then count as this process's memory.
  """

  single = SINGLE
  index = INDEX

  def __init__(self, directory: Path):
    self._offsets: dict[str, int] = {}
    super().__init__(directory)

  def unlisted_files(self) -> list[str]:
    """The one file."""
    if not (self.directory / SINGLE).is_file():
      raise CheckpointError(f"{self.directory} has neither {SINGLE} nor {INDEX}: download the weights")
    return [SINGLE]

  def _header(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    try:
      with safe_open(path, framework="numpy"), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    except (SafetensorError, OSError) as error:
      raise corrupt(path, error) from error
    for name, entry in header.items():
      if name != "__metadata__":
        self._offsets[name] = 8 + length + entry["data_offsets"][0]
        yield name, tuple(entry["shape"]), entry["dtype"]

  def read(self, name: str) -> np.ndarray:
    """One tensor bit for bit, as its file has it."""
    path, shape, dtype = self.directory / self.files[name], self.shapes[name], STORED[self.dtypes[name]]
    count = int(np.prod(shape))
    try:
      array = np.fromfile(path, dtype, count, offset=self._offsets[name])
    except OSError as error:
      raise corrupt(path, error) from error
    if array.size != count:
      raise corrupt(path, f"{name} has {array.size} of {count} numbers")
    return array.reshape(shape)
