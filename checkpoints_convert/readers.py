"""Reads a checkpoint's files, one tensor at a time: what all kinds of files share, and safetensors."""

import abc
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from checkpoints_convert.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES: Mapping[str, np.dtype] = {
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F16": np.dtype(np.float16),
  "F32": np.dtype(np.float32),
}
"""What weights may be loaded as, by safetensors' type codes."""
FP8 = "F8_E4M3"
_STORED: Mapping[str, np.dtype] = {
  **DTYPES,
  FP8: np.dtype(ml_dtypes.float8_e4m3fn),
  "U8": np.dtype(np.uint8),
}


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file that holds an object; CheckpointError where it does not."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from error
  if not isinstance(value, dict):
    raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object: download it again")
  return value


class Reader(abc.ABC):
  """The tensors of a checkpoint directory; a context manager that reads headers at once and data when asked.

  Subclasses name their files: `single`, or else those that `index` lists.

  Attributes:
    directory: where the files are.
    shapes: shape of every tensor.
    dtypes: its type, as safetensors' code, such as `BF16`.
    files: the name of its file.
  """

  single: ClassVar[str]
  index: ClassVar[str]

  def __init__(self, directory: Path):
    self.directory = directory
    self.shapes: dict[str, tuple[int, ...]] = {}
    self.dtypes: dict[str, str] = {}
    self.files: dict[str, str] = {}
    alone = (directory / self.single).is_file()
    listed = None if alone or not (directory / self.index).is_file() else _weight_map(directory / self.index)
    for file in self.unlisted_files() if listed is None else sorted(set(listed.values())):
      for name, shape, code in self._header(self._existing(file)):
        if name in self.files:
          raise CheckpointError(f"{directory}: tensor {name} is in both {self.files[name]} and {file}")
        self.shapes[name], self.dtypes[name], self.files[name] = shape, code, file
    if listed is not None and listed != self.files:
      self.close()
      _explain_index(directory / self.index, listed, self.files)

  @abc.abstractmethod
  def unlisted_files(self) -> list[str]:
    """The files where there is no index; CheckpointError where there are none."""

  @abc.abstractmethod
  def _header(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and type code of each tensor of a file."""

  @abc.abstractmethod
  def read(self, name: str) -> np.ndarray:
    """One tensor bit for bit, as its file has it; not to be written to."""

  def close(self) -> None:  # noqa: B027 (most readers hold nothing open)
    """Lets go of what is open."""

  def __enter__(self) -> "Reader":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self.close()

  def _existing(self, file: str) -> Path:
    path = self.directory / file
    if not path.is_file():
      raise CheckpointError(f"{self.directory / self.index} names {file}, which does not exist: download it")
    return path


class SafetensorsReader(Reader):
  """safetensors files, without torch.

  The library checks a file; data is then read by offset, since its NumPy side has no 8-bit floats, and since the
  pages of a mapped file count as this process's memory.
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
    path, shape, dtype = self.directory / self.files[name], self.shapes[name], _STORED[self.dtypes[name]]
    count = int(np.prod(shape))
    try:
      array = np.fromfile(path, dtype, count, offset=self._offsets[name])
    except OSError as error:
      raise corrupt(path, error) from error
    if array.size != count:
      raise corrupt(path, f"{name} has {array.size} of {count} numbers")
    return array.reshape(shape)


def corrupt(path: Path, error: object) -> CheckpointError:
  """The error for a file that cannot be read."""
  size = path.stat().st_size if path.is_file() else 0
  return CheckpointError(f"{path} ({size:,} bytes) is truncated or corrupt ({error}): download it again")


def _weight_map(path: Path) -> dict[str, str]:
  index = read_json(path).get("weight_map")
  if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
    raise CheckpointError(f"{path} has no 'weight_map' from tensors to files: download it again")
  outside = [file for file in index.values() if Path(file).name != file]
  if outside:
    raise CheckpointError(f"{path} names {outside[0]!r}: expected a file beside it")
  return index


def _explain_index(path: Path, index: Mapping[str, str], files: Mapping[str, str]) -> None:
  wrong = sorted(name for name in {*index, *files} if index.get(name) != files.get(name))
  name = wrong[0]
  listed, found = index.get(name, "no file"), files.get(name, "no file")
  raise CheckpointError(
    f"{path} and the files disagree on {len(wrong)} tensors: {name} is listed in {listed} and found in {found}: "
    "download both again"
  )


def common_dtype(dtypes: Mapping[str, str], where: object) -> np.dtype:
  """The one float dtype of all tensors; CheckpointError where one is no float, or several are mixed."""
  check_float(dtypes, where)
  example = {code: name for name, code in dtypes.items()}
  if len(example) > 1:
    mixed = ", ".join(f"{DTYPES[code].name} ({name})" for code, name in sorted(example.items()))
    raise CheckpointError(f"{where} mixes {mixed}: say which dtype to load it in, such as dtype='bfloat16'")
  return DTYPES[next(iter(example))]


def check_float(dtypes: Mapping[str, str], where: object) -> None:
  """Raises CheckpointError, naming the tensor, where one is not bfloat16, float16 or float32."""
  for name, code in dtypes.items():
    if code not in DTYPES:
      raise CheckpointError(
        f"{where}: tensor {name} has type {code}: not supported; supported: bfloat16, float16, float32, and "
        "float8_e4m3fn with or without the scales that quantization_config describes"
      )
