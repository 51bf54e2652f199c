"""`convert`: one model directory into another, between the hub's files and an Orbax checkpoint."""

import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import orbax_weights
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.families import hub_rules
from checkpoints_convert.readers import read_json
from checkpoints_convert.sources import Source, as_dtype, open_source
from checkpoints_convert.writer import (
  check_destination,
  copy_companions,
  fingerprint,
  staged,
  write_config,
  write_record,
  write_safetensors,
)

FORMATS = ("orbax", "hf")

Report = Callable[[str, int, int], None]


def convert(
  src: str | os.PathLike[str],
  dst: str | os.PathLike[str],
  *,
  dtype: Any = None,
  to: str = "orbax",
  force: bool = False,
  report: Report = lambda stage, done, total: None,
) -> None:
  """Writes the model of directory `src` as directory `dst`, all of it or nothing.

  Args:
    src: a Hugging Face model directory (safetensors or PyTorch files), or one that this function made.
    dst: the directory to make; its conversion.json records the source's checksums and the rules.
    dtype: bfloat16, float16 or float32; None keeps the source's, bit for bit.
    to: `orbax`, or `hf` for safetensors under the hub's names, which transformers loads.
    force: replace a model directory that is at `dst` already.
    report: called with a stage's name, and how much of it is done: (stage, done, total), in bytes.

  Raises:
    OSError: there is no checkpoint directory at `src`, or `dst` cannot be written.
    ValueError: the checkpoint cannot be used, `dst` exists, or an argument is not supported.
  """
  if to not in FORMATS:
    raise ValueError(f"to is {to!r}: not supported; supported: {', '.join(FORMATS)}")
  wanted = None if dtype is None else as_dtype(dtype)
  source_path, destination = Path(src), Path(dst)
  if source_path.resolve().is_relative_to(destination.resolve()):
    raise CheckpointError(f"{destination} holds the source {source_path}: give another destination")
  check_destination(destination, force=force)
  with open_source(source_path) as source, staged(destination, force=force) as directory:
    chosen = source.dtype if wanted is None else wanted
    arrays = _read(source, chosen, report)
    size = sum(array.nbytes for array in arrays.values())
    report("writing", 0, size)
    if to == "orbax":
      orbax_weights.write(directory, arrays)
    else:
      write_safetensors(directory, hub_rules(source.spec), arrays)
    report("writing", size, size)
    config = source_path / "config.json"
    write_config(directory, read_json(config), chosen)
    files = [config, *copy_companions(source_path, directory), *source.files()]
    write_record(directory, _record(source, chosen, to, files, report))


def _read(source: Source, dtype: np.dtype, report: Report) -> dict[str, np.ndarray]:
  total = sum(int(np.prod(shape)) for shape in source.shapes.values()) * dtype.itemsize
  arrays: dict[str, np.ndarray] = {}
  done = 0
  for path, array in source.parameters(dtype):
    arrays[path] = array
    done += array.nbytes
    report("reading", done, total)
  return arrays


def _record(source: Source, dtype: np.dtype, to: str, files: list[Path], report: Report) -> dict[str, Any]:
  total = sum(path.stat().st_size for path in files)
  sums: dict[str, Any] = {}
  done = 0
  for path in files:
    sums[path.relative_to(source.directory).as_posix()] = fingerprint(path)
    done += path.stat().st_size
    report("checksums", done, total)
  return {
    "lynx_jax": metadata.version("lynx-jax"),
    "family": source.spec.family,
    "to": to,
    "dtype": dtype.name,
    "source": {"directory": source.directory.resolve().name, "files": sums},
    "rules": source.rules(),
  }
