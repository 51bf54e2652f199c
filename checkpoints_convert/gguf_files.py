"""Reads GGUF files, whole or in pieces: the format of llama.cpp, in which one file is a model with its tokenizer."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.dtypes import STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.gguf_header import Tensor, read_header
from checkpoints_convert.gguf_types import BY_NAME
from checkpoints_convert.reader import Reader, corrupt

SUFFIX = ".gguf"
_PIECE = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


class GGUFReader(Reader):
  """The tensors of one file, or of all pieces of a file that was split.

  Attributes:
    path: the file, the first one where there are several.
    metadata: what the file says of its model and its tokenizer, by key.
  """

  # The names of files come from the path.
  single = index = ""

  def __init__(self, path: Path):
    self._headers = {name: read_header(path.parent / name) for name in _pieces(path)}
    self._tensors: dict[str, Tensor] = {}
    first = next(iter(self._headers))
    self.path, self.metadata = path.parent / first, self._headers[first].metadata
    super().__init__(path.parent)
    expected = self.metadata.get("split.tensors.count")
    if len(self._headers) > 1 and expected not in (None, len(self._tensors)):
      raise CheckpointError(
        f"{path} says that its pieces hold {expected} tensors, and they hold {len(self._tensors)}: download them again"
      )

  def __enter__(self) -> "GGUFReader":
    return self

  def unlisted_files(self) -> list[str]:
    """The file, or all pieces."""
    return list(self._headers)

  def _header(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    header = self._headers[path.name]
    pieces = header.metadata.get("split.count", 1)
    if pieces not in (0, 1, len(self._headers)):
      raise CheckpointError(
        f"{path} is one of {pieces} pieces, whose names end in -00001-of-{pieces:05d}{SUFFIX} and so on: "
        "give them these names"
      )
    self._tensors |= header.tensors
    for name, tensor in header.tensors.items():
      yield name, tensor.shape, tensor.code

  def read(self, name: str) -> np.ndarray:
    """One tensor bit for bit: its numbers, or, where it is quantised, the bytes of its rows, [..., rows, bytes]."""
    tensor = self._tensors[name]
    path, kind = self.directory / self.files[name], BY_NAME[tensor.code]
    try:
      data = np.fromfile(path, np.uint8, tensor.nbytes, offset=tensor.offset)
    except OSError as error:
      raise corrupt(path, error) from error
    if data.size != tensor.nbytes:
      raise corrupt(path, f"{name} has {data.size:,} of {tensor.nbytes:,} bytes")
    if tensor.code in STORED:
      return data.view(STORED[tensor.code]).reshape(tensor.shape)
    return data.reshape(*tensor.shape[:-1], tensor.shape[-1] // kind.numbers * kind.nbytes)


def read_metadata(path: Path) -> Mapping[str, Any]:
  """What a file says of its model, by key; raises as `GGUFReader` does."""
  return read_header(path.parent / _pieces(path)[0]).metadata


def _pieces(path: Path) -> list[str]:
  """The names of all pieces of a file, given any of them; CheckpointError where one is missing."""
  match = _PIECE.fullmatch(path.name)
  if match is None or int(match["count"]) < 2:
    return [path.name]
  names = [f"{match['stem']}-{number:05d}-of-{match['count']}{SUFFIX}" for number in range(1, int(match["count"]) + 1)]
  missing = [name for name in names if not (path.parent / name).is_file()]
  if missing:
    raise CheckpointError(f"{path} is one of {len(names)} pieces, and {missing[0]} is not beside it: download it")
  return names


def find_gguf(path: Path) -> Path | None:
  """The file that `path` names, or the one model of the directory `path`; None where there is none.

  Raises:
    CheckpointError: the directory has several models.
  """
  if path.is_file():
    return path if path.suffix == SUFFIX or _begins_like_one(path) else None
  found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else []
  # A model that sees has its vision part in a file of its own.
  models = [file for file in found if _starts_a_model(file.name)]
  if len(models) > 1:
    names = ", ".join(file.name for file in models[:4]) + (", ..." if len(models) > 4 else "")
    raise CheckpointError(f"{path} has {len(models)} GGUF models: give one of them, {names}")
  return models[0] if models else None


def _starts_a_model(name: str) -> bool:
  match = _PIECE.fullmatch(name)
  return not name.startswith("mmproj") and (match is None or int(match["number"]) == 1)


def _begins_like_one(path: Path) -> bool:
  with path.open("rb") as file:
    return file.read(4) == b"GGUF"
