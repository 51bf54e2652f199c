"""Writing files so that nothing is ever half there."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
  """Writes `value` as JSON; the file appears whole or not at all."""
  write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
  """Writes `text` to a temporary name beside `path`, then renames it."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)
