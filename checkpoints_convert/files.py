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
    value = json.loads(path.read_text(encoding="utf-8"))
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from error
  if not isinstance(value, dict):
    raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object: download it again")
  return value


def write_json(path: Path, value: Any) -> None:
  """Writes `value` as indented JSON; the file appears whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
  """Writes `text` in UTF-8; the file appears whole or not at all."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding="utf-8")


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
