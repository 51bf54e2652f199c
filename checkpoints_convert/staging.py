"""Directories that appear whole or not at all."""

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from checkpoints_convert.errors import CheckpointError


@contextlib.contextmanager
def staged(destination: Path, *, force: bool) -> Iterator[Path]:
  """A directory to fill, under a temporary name beside `destination`, which it becomes at the end.

  Whatever fails on the way, the directory vanishes and an older `destination` is as it was. Raises
  CheckpointError where `destination` exists and `force` is not set, or is no model directory.
  """
  check_destination(destination, force=force)
  destination.parent.mkdir(parents=True, exist_ok=True)
  unique = uuid.uuid4().hex[:8]
  partial = destination.with_name(f".{destination.name}.{unique}.partial")
  replaced = destination.with_name(f".{destination.name}.{unique}.replaced")
  partial.mkdir()
  try:
    yield partial
    if destination.exists():
      check_destination(destination, force=force)
      destination.rename(replaced)
    partial.rename(destination)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    if replaced.exists():
      replaced.rename(destination)
    raise
  shutil.rmtree(replaced, ignore_errors=True)


def check_destination(destination: Path, *, force: bool) -> None:
  """Raises CheckpointError unless `destination` is free, or `force` is set and it is a model directory."""
  if not destination.exists():
    return
  if not force:
    raise CheckpointError(f"{destination} exists: give another name, or --force to replace it")
  if not destination.is_dir() or (any(destination.iterdir()) and not (destination / "config.json").exists()):
    raise CheckpointError(f"{destination} is no model directory, which --force would replace: give another name")
