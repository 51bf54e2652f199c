"""safetensors files, read and written without torch."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from checkpoints_convert.dtypes import STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.files import write_json
from checkpoints_convert.reader import Reader, corrupt
from checkpoints_convert.rules import Rule, RuleTable, carry, names, only_rules, source_shapes

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SHARD_BYTES = 4 << 30


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


def write_safetensors(
  directory: Path, table: RuleTable, arrays: Mapping[str, Any], shard_bytes: int = SHARD_BYTES
) -> None:
  """Writes parameters, under their names in a checkpoint, to one file, or to shards and an index.

  `arrays` are NumPy or JAX arrays, by path; those of one tensor have one dtype, as `by_path(decoder)` gives them.
  """
  shapes = source_shapes(table, {path: array.shape for path, array in arrays.items()})

  def read(path: str) -> np.ndarray:
    return np.asarray(arrays[path])

  shards = _shards(table, arrays, shard_bytes)
  files: dict[str, str] = {}
  for number, rules in enumerate(shards, 1):
    file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = {
      name: array
      for rule in rules
      for name, array in carry(rule.inverse, shapes, read, arrays[next(names(rule.target))].dtype)
    }
    # transformers refuses files that do not say so, whatever wrote them.
    save_file(tensors, directory / file, metadata={"format": "pt"})
    # safetensors makes files that only their owner can read.
    (directory / file).chmod(directory.stat().st_mode & 0o666)
    files |= dict.fromkeys(tensors, file)
  if len(shards) > 1:
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    write_json(directory / INDEX, index)


def _shards(table: RuleTable, arrays: Mapping[str, Any], limit: int) -> list[list[Rule]]:
  shards: list[list[Rule]] = [[]]
  filled = 0
  for rule in only_rules(table):
    size = sum(arrays[path].nbytes for path in names(rule.target))
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(rule)
    filled += size
  return shards
