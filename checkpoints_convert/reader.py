"""What the readers of all kinds of weight files share: which files belong together, and what tensors they hold."""

import abc
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar

import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.files import read_json


class Reader(abc.ABC):
  """The tensors of a directory. A context manager: opening reads headers only, data is read when it is asked for.

  A subclass names its files: the one called `single`, or else those that the file `index` lists.

  Attributes:
    directory: where the files are.
    shapes: the shape of every tensor.
    dtypes: its type, as safetensors' code, such as `BF16`.
    files: the name of the file that holds it.
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
      raise _disagreement(directory / self.index, listed, self.files)

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
    """Closes what is open."""

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


def _disagreement(path: Path, index: Mapping[str, str], files: Mapping[str, str]) -> CheckpointError:
  wrong = sorted(name for name in {*index, *files} if index.get(name) != files.get(name))
  name = wrong[0]
  listed, found = index.get(name, "no file"), files.get(name, "no file")
  return CheckpointError(
    f"{path} and the files disagree on {len(wrong)} tensors: {name} is listed in {listed} and found in {found}: "
    "download both again"
  )
