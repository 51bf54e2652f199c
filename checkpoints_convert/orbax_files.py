"""The weights of a converted directory: one Orbax checkpoint, a flat dictionary of parameters by path."""

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.rules import Shapes
from pallas_kernels.cpu.huge_pages import aligned_empty

WEIGHTS = "weights"

# Parameters are restored in groups of about this many bytes: one at a time is slow, and all at once holds the
# model twice.
_GROUP_BYTES = 64 << 20


def is_converted(directory: Path) -> bool:
  """Whether `directory` holds Orbax weights."""
  return (directory / WEIGHTS).is_dir()


def files(directory: Path) -> list[Path]:
  """All files of the checkpoint."""
  return sorted(path for path in (directory / WEIGHTS).rglob("*") if path.is_file())


def write(directory: Path, arrays: Mapping[str, Any]) -> None:
  """Writes the parameters, NumPy or JAX arrays, under `directory`; Orbax holds a second copy meanwhile."""
  import orbax.checkpoint as ocp

  # Compressing weights takes memory and time, here and at every load, for next to nothing.
  with ocp.PyTreeCheckpointer(use_compression=False) as checkpointer:
    checkpointer.save((directory / WEIGHTS).absolute(), dict(arrays))


def check(directory: Path, shapes: Shapes) -> dict[str, np.dtype]:
  """The dtype of every parameter; CheckpointError unless those stored are exactly those of `shapes`."""
  found = _metadata(directory)
  stored = {path: tuple(entry.shape) for path, entry in found.items()}
  wrong = sorted(path for path in {*shapes, *stored} if shapes.get(path) != stored.get(path))
  if wrong:
    raise CheckpointError(
      f"{directory / WEIGHTS} does not fit config.json: {len(wrong)} parameters differ, such as {wrong[0]} "
      f"(expected {shapes.get(wrong[0])}, found {stored.get(wrong[0])}): convert the checkpoint again"
    )
  return {path: np.dtype(entry.dtype) for path, entry in found.items()}


def _metadata(directory: Path) -> dict[str, Any]:
  import orbax.checkpoint as ocp

  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      found = checkpointer.metadata((directory / WEIGHTS).absolute()).item_metadata
  except Exception as error:  # Orbax raises many kinds for a damaged directory
    raise _damaged(directory, error) from error
  if found is None:
    raise _damaged(directory, ValueError("its list of parameters is damaged or missing"))
  return dict(found.tree)


def read(directory: Path, shapes: Shapes, dtypes: Mapping[str, np.dtype]) -> Iterator[tuple[str, np.ndarray]]:
  """Every parameter once, each in the dtype that `dtypes` gives it: the largest first, while little is held."""
  import orbax.checkpoint as ocp

  metadata = _metadata(directory)
  with ocp.PyTreeCheckpointer() as checkpointer:
    for group in _groups(dict(sorted(shapes.items(), key=lambda entry: -math.prod(entry[1]))), dtypes):
      arguments = ocp.args.PyTreeRestore(
        item={path: metadata[path] for path in group},
        restore_args={path: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtypes[path]) for path in group},
        partial_restore=True,
      )
      try:
        arrays = checkpointer.restore((directory / WEIGHTS).absolute(), arguments)
      except Exception as error:  # Orbax raises many kinds for a damaged directory
        raise _damaged(directory, error) from error
      for path in group:
        # Orbax's memory is not aligned: JAX would copy it later, in the background, beside the next group.
        array = aligned_empty(shapes[path], dtypes[path])
        array[...] = arrays.pop(path)
        yield path, array


def _groups(shapes: Shapes, dtypes: Mapping[str, np.dtype]) -> Iterator[list[str]]:
  ends = itertools.accumulate(math.prod(shape) * dtypes[path].itemsize for path, shape in shapes.items())
  grouped = itertools.groupby(zip(shapes, ends, strict=True), key=lambda entry: entry[1] // _GROUP_BYTES)
  for _, entries in grouped:
    yield [path for path, _ in entries]


def _damaged(directory: Path, error: Exception) -> CheckpointError:
  reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
  return CheckpointError(f"{directory / WEIGHTS} cannot be read ({reason[0][:200]}): convert the checkpoint again")
