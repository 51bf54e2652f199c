"""Directories that appear whole or not at all, and what a run that was killed left of one."""

import contextlib
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from checkpoints_convert.errors import CheckpointError

_PARTIAL, _REPLACED = ".partial", ".replaced"


@contextlib.contextmanager
def staged(destination: Path, *, force: bool) -> Iterator[Path]:
  """A directory to fill, under a temporary name beside `destination`, which it becomes at the end.

  Whatever fails on the way, the directory vanishes and an older `destination` is as it was. Only a run that is killed
  cannot clean up; what such runs left of `destination` is removed first. Raises CheckpointError where `destination`
  exists and `force` is not set, or is no model directory.
  """
  destination.parent.mkdir(parents=True, exist_ok=True)
  remove_leftovers(destination)
  check_destination(destination, force=force)
  partial, lock = _locked_directory(destination)
  replaced = partial.with_suffix(_REPLACED)
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
  finally:
    os.close(lock)
  shutil.rmtree(replaced, ignore_errors=True)


def check_destination(destination: Path, *, force: bool) -> None:
  """Raises CheckpointError unless `destination` is free, or `force` is set and it is a model directory."""
  if not destination.exists():
    return
  if not force:
    raise CheckpointError(f"{destination} exists: give another name, or --force to replace it")
  if not destination.is_dir() or (any(destination.iterdir()) and not (destination / "config.json").exists()):
    raise CheckpointError(f"{destination} is no model directory, which --force would replace: give another name")


def remove_leftovers(destination: Path) -> None:
  """Removes what killed runs left beside `destination`; an older one that they had moved away is put back."""
  for partial in _siblings(destination, _PARTIAL):
    lock = _lock(partial)
    if lock is not None:
      shutil.rmtree(partial, ignore_errors=True)
      os.close(lock)
  for replaced in _siblings(destination, _REPLACED):
    if replaced.with_suffix(_PARTIAL).exists():
      continue  # its run is alive
    if destination.exists():
      shutil.rmtree(replaced, ignore_errors=True)
    else:
      replaced.rename(destination)


def _siblings(destination: Path, suffix: str) -> list[Path]:
  return sorted(destination.parent.glob(f".{glob.escape(destination.name)}.*{suffix}"))


def _locked_directory(destination: Path) -> tuple[Path, int]:
  """A new temporary directory and its lock, which tells other runs that this one lives."""
  while True:
    partial = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:8]}{_PARTIAL}")
    partial.mkdir()
    lock = _lock(partial)
    if lock is not None:
      return partial, lock
    # Another run took the new directory for a leftover before it was locked.


def _lock(directory: Path) -> int | None:
  """Locks a directory, for as long as the returned file descriptor is open; None where another process has it.

  The system lets go of the lock when the process ends, however it ends, so a leftover is what can be locked.
  """
  try:
    descriptor = os.open(directory, os.O_RDONLY)
  except FileNotFoundError:
    return None
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    os.close(descriptor)
    return None
  return descriptor
