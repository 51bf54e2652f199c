"""`convert`: writes the model of an open checkpoint as a directory of Orbax or of safetensors files."""

import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import orbax_files
from checkpoints_convert.checkpoint import Checkpoint
from checkpoints_convert.companions import copy_companions, fingerprint, write_config, write_record
from checkpoints_convert.dtypes import as_dtype
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.safetensors_files import write_safetensors
from checkpoints_convert.staging import check_destination, staged

FORMATS = ("orbax", "hf")

Report = Callable[[str, int, int], None]


def convert(
  source: Checkpoint,
  destination: str | os.PathLike[str],
  *,
  dtype: Any = None,
  to: str = "orbax",
  force: bool = False,
  report: Report = lambda stage, done, total: None,
) -> None:
  """Writes the model of `source` as the directory `destination`, all of it or nothing.

  Args:
    source: an open checkpoint.
    destination: the directory to make; its conversion.json records the source's checksums and the rules.
    dtype: bfloat16, float16 or float32; None keeps the source's, bit for bit.
    to: `orbax`, or `hf` for safetensors under the hub's names, which transformers loads.
    force: replace a model directory that is at `destination` already.
    report: called with a stage's name, and how much of it is done: (stage, done, total), in bytes.

  Raises:
    OSError: `destination` cannot be written.
    ValueError: a file of the source is damaged, `destination` exists, or an argument is not supported.
  """
  if to not in FORMATS:
    raise ValueError(f"to is {to!r}: not supported; supported: {', '.join(FORMATS)}")
  chosen = source.dtype if dtype is None else as_dtype(dtype)
  destination = Path(destination)
  if source.directory.resolve().is_relative_to(destination.resolve()):
    raise CheckpointError(f"{destination} holds the source {source.directory}: give another destination")
  check_destination(destination, force=force)
  with staged(destination, force=force) as directory:
    arrays = _read(source, chosen, report)
    size = sum(array.nbytes for array in arrays.values())
    report("writing", 0, size)
    if to == "orbax":
      orbax_files.write(directory, arrays)
    else:
      write_safetensors(directory, source.schema.rules({}), arrays)
    report("writing", size, size)
    write_config(directory, source.config, chosen)
    files = [source.directory / "config.json", *copy_companions(source.directory, directory), *source.files()]
    write_record(directory, _record(source, chosen, to, files, report))


def _read(source: Checkpoint, dtype: np.dtype, report: Report) -> dict[str, np.ndarray]:
  total = sum(int(np.prod(shape)) for shape in source.schema.shapes.values()) * dtype.itemsize
  arrays: dict[str, np.ndarray] = {}
  done = 0
  for path, array in source.parameters(dtype):
    arrays[path] = array
    done += array.nbytes
    report("reading", done, total)
  return arrays


def _record(source: Checkpoint, dtype: np.dtype, to: str, files: list[Path], report: Report) -> dict[str, Any]:
  total = sum(path.stat().st_size for path in files)
  sums: dict[str, Any] = {}
  done = 0
  for path in files:
    sums[path.relative_to(source.directory).as_posix()] = fingerprint(path)
    done += path.stat().st_size
    report("checksums", done, total)
  return {
    "lynx_jax": metadata.version("lynx-jax"),
    "family": source.schema.family,
    "to": to,
    "dtype": dtype.name,
    "source": {"directory": source.directory.resolve().name, "files": sums},
    "rules": source.rules(),
  }
