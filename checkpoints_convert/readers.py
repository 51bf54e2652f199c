"""Reads safetensors files, with or without an index, one tensor at a time and without torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

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

# Pages of a mapped file count as this process's memory until the file is closed, so a file is reopened after
# this many bytes: without that, loading one large file peaks at twice its size.
_REOPEN_BYTES = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file that holds an object; CheckpointError where it does not."""
  try:
    value = json.loads(path.read_text(encoding="utf-8"))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from error
  if not isinstance(value, dict):
    raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object: download it again")
  return value


class SafetensorsReader:
  """The tensors of a checkpoint directory; a context manager that reads headers at once and data when asked.

  Attributes:
    directory: where the files are.
    shapes: shape of every tensor.
    dtypes: its safetensors type code, such as `BF16`.
    files: the name of its file.
  """

  def __init__(self, directory: Path):
    self.directory = directory
    self.shapes: dict[str, tuple[int, ...]] = {}
    self.dtypes: dict[str, str] = {}
    self.files: dict[str, str] = {}
    self._open: tuple[str, Any] | None = None
    self._bytes_read = 0
    index = None if (directory / SINGLE).is_file() else _weight_map(directory)
    for file in [SINGLE] if index is None else sorted(set(index.values())):
      self._read_header(file)
    if index is not None and index != self.files:
      self.close()
      _explain_index(directory, index, self.files)

  def __enter__(self) -> "SafetensorsReader":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    self.close()

  def close(self) -> None:
    """Lets go of the open file, and of its mapped pages."""
    self._open, self._bytes_read = None, 0

  def read(self, name: str) -> np.ndarray:
    """One tensor, as the file has it: a fresh array, bfloat16 bit for bit."""
    file = self.files[name]
    if self._open is None or self._open[0] != file or self._bytes_read > _REOPEN_BYTES:
      self.close()
      self._open = file, self._handle(file)
    try:
      array = self._open[1].get_tensor(name)
    except (SafetensorError, OSError) as error:
      raise _corrupt(self.directory / file, error) from error
    self._bytes_read += array.nbytes
    return array

  def _handle(self, file: str) -> Any:
    try:
      return safe_open(self.directory / file, framework="numpy")
    except FileNotFoundError as error:
      raise CheckpointError(f"{self.directory / INDEX} names {file}, which does not exist: download it") from error
    except (SafetensorError, OSError) as error:
      raise _corrupt(self.directory / file, error) from error

  def _read_header(self, file: str) -> None:
    handle = self._handle(file)
    for name in handle.keys():  # noqa: SIM118 (not a mapping)
      if name in self.files:
        raise CheckpointError(f"{self.directory}: tensor {name} is in both {self.files[name]} and {file}")
      part = handle.get_slice(name)
      self.shapes[name], self.dtypes[name] = tuple(part.get_shape()), part.get_dtype()
      self.files[name] = file


def _corrupt(path: Path, error: Exception) -> CheckpointError:
  size = path.stat().st_size if path.is_file() else 0
  return CheckpointError(f"{path} ({size:,} bytes) is truncated or corrupt ({error}): download it again")


def _weight_map(directory: Path) -> dict[str, str]:
  path = directory / INDEX
  if not path.is_file():
    raise _no_weights(directory)
  index = read_json(path).get("weight_map")
  if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
    raise CheckpointError(f"{path} has no 'weight_map' from tensors to files: download it again")
  outside = [file for file in index.values() if Path(file).name != file]
  if outside:
    raise CheckpointError(f"{path} names {outside[0]!r}: expected a file beside it")
  return index


def _explain_index(directory: Path, index: Mapping[str, str], files: Mapping[str, str]) -> None:
  wrong = sorted(name for name in {*index, *files} if index.get(name) != files.get(name))
  name = wrong[0]
  listed, found = index.get(name, "no file"), files.get(name, "no file")
  raise CheckpointError(
    f"{directory / INDEX} and the files disagree on {len(wrong)} tensors: {name} is listed in {listed} and "
    f"found in {found}: download both again"
  )


def _no_weights(directory: Path) -> CheckpointError:
  pickled = sorted(path.name for path in [*directory.glob("*.bin"), *directory.glob("*.pt*")])
  if pickled:
    return CheckpointError(
      f"{directory} has PyTorch weights ({pickled[0]}) and no safetensors: not supported; convert them once "
      "with transformers: AutoModelForCausalLM.from_pretrained(SRC, dtype='auto').save_pretrained(DST)"
    )
  return CheckpointError(f"{directory} has neither {SINGLE} nor {INDEX}: download the weights")


def common_dtype(dtypes: Mapping[str, str], where: object) -> np.dtype:
  """The one float dtype of all tensors; CheckpointError where one is quantised, or several are mixed."""
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
        f"{where}: tensor {name} has type {code}: not supported; supported: bfloat16, float16, float32"
      )
