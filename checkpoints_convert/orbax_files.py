"""The weights of a converted directory: one Orbax checkpoint, a flat dictionary of parameters by path."""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.parameters import Parameters, groups
from checkpoints_convert.quantised import held_in, stored_arrays
from checkpoints_convert.rules import Shapes

WEIGHTS = "weights"
# Of a group, all that has not been taken yet is held beside the model.
_READ_BYTES = 16 << 20


def is_converted(directory: Path) -> bool:
  """Whether `directory` holds Orbax weights."""
  return (directory / WEIGHTS).is_dir()


def files(directory: Path) -> list[Path]:
  """All files of the checkpoint."""
  return sorted(path for path in (directory / WEIGHTS).rglob("*") if path.is_file())


def write(directory: Path, parameters: Parameters, wrote: Callable[[int], None] = lambda count: None) -> None:
  """Writes the parameters under `directory`, a group at a time; `wrote` is called with each group's bytes.

  Raises CheckpointError where they cannot be read, and where Orbax cannot write.
  """
  from checkpoints_convert import (
    orbax_writing,  # Orbax takes seconds to import, and loading from the hub's files needs none
  )

  try:
    orbax_writing.save(directory / WEIGHTS, parameters, wrote)
  except CheckpointError:
    raise
  except Exception as error:  # Orbax and TensorStore raise many kinds
    raise CheckpointError(f"{directory / WEIGHTS} cannot be written ({_first_line(error)})") from error


def check(directory: Path, shapes: Shapes) -> dict[str, np.dtype]:
  """The dtype of every stored array; CheckpointError unless they are exactly those of the parameters `shapes`."""
  found = _metadata(directory)
  stored = {path: tuple(entry.shape) for path, entry in found.items()}
  dtypes = {path: np.dtype(entry.dtype) for path, entry in found.items()}
  # What is quantised has other shapes.
  shapes, _ = stored_arrays(shapes, dict.fromkeys(shapes, np.dtype(np.float32)), held_in(dtypes, shapes))
  wrong = sorted(path for path in {*shapes, *stored} if shapes.get(path) != stored.get(path))
  if wrong:
    raise CheckpointError(
      f"{directory / WEIGHTS} does not fit config.json: {len(wrong)} parameters differ, such as {wrong[0]} "
      f"(expected {shapes.get(wrong[0])}, found {stored.get(wrong[0])}): convert the checkpoint again"
    )
  return dtypes


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
  """The arrays of `shapes`, each in the dtype that `dtypes` gives it, in groups in the order of `shapes`.

  Nothing here refers to an array that was yielded.
  """
  import orbax.checkpoint as ocp

  metadata = _metadata(directory)
  with ocp.PyTreeCheckpointer() as checkpointer:
    for group in groups(shapes, lambda path: math.prod(shapes[path]) * dtypes[path].itemsize, _READ_BYTES):
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
        yield path, arrays.pop(path)


def _damaged(directory: Path, error: Exception) -> CheckpointError:
  reason = _first_line(error)[:200]
  return CheckpointError(f"{directory / WEIGHTS} cannot be read ({reason}): convert the checkpoint again")


def _first_line(error: Exception) -> str:
  return next(iter(str(error).strip().splitlines()), type(error).__name__)
