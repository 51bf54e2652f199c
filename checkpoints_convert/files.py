"""Reading JSON files with errors that name them, and writing files so that none is ever half written."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from checkpoints_convert.errors import CheckpointError


def read_json(path: Path) -> dict[str, Any]:
  """A JSON file that holds an object; CheckpointError, naming the file, where it does not."""
  try:
    value = json.loads(read_text(path))
  except (json.JSONDecodeError, RecursionError) as error:
    raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from error
  if not isinstance(value, dict):
    raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object: download it again")
  return value


def read_text(path: Path) -> str:
  """A text file in UTF-8; CheckpointError, naming the file, where it is none."""
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise CheckpointError(f"{path} is not UTF-8 text ({error}): download it again") from error


def check_writable(path: Path) -> None:
  """Raises OSError now where `write_text` could not write later, at the end of long work."""
  folder = path.parent
  if path.is_dir():
    raise IsADirectoryError(f"cannot write {path}: it is a directory; give the name of a file")
  if not folder.is_dir():
    raise FileNotFoundError(f"cannot write {path}: there is no directory {folder}; make it first")
  if not os.access(folder, os.W_OK):
    raise PermissionError(f"cannot write {path}: {folder} is not writable; choose another place")


def write_json(path: Path, value: Any) -> None:
  """Writes `value` as indented JSON; the file appears whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
  """Writes `text` in UTF-8; the file appears whole or not at all.

  Raises:
    OSError: the file cannot be written, such as on a full disk; the message names it.
  """
  try:
    with replacing(path) as temporary:
      temporary.write_text(text, encoding="utf-8")
  except OSError as error:
    raise OSError(f"cannot write {path}: {error.strerror}; free some space or choose another place") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A temporary file name beside `path`, with its suffix; what is written there becomes `path` at the end.

  Where the block raises, the temporary file is removed and `path` stays as it was.
  """
  temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
  try:
    yield temporary
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
