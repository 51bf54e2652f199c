"""`convert`: writes the model of an open checkpoint as a directory of Orbax or of safetensors files."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import orbax_files
from checkpoints_convert.checkpoint import Checkpoint
from checkpoints_convert.companions import fingerprint, write_config, write_record
from checkpoints_convert.dtypes import as_dtype
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.packing import Packing, aloud, packing_of
from checkpoints_convert.parameters import Parameters
from checkpoints_convert.quantised import Forms, quantised, stored
from checkpoints_convert.rules import RuleTable
from checkpoints_convert.safetensors_writing import stored_bytes, write_safetensors
from checkpoints_convert.staging import staged

FORMATS = ("orbax", "hf")

Report = Callable[[str, int, int], None]

_LOG = logging.getLogger(__name__)


def convert(
  source: Checkpoint,
  destination: str | os.PathLike[str],
  *,
  dtype: Any = None,
  to: str = "orbax",
  force: bool = False,
  forms: Forms | None = None,
  kept: Collection[str] = (),
  report: Report = lambda stage, done, total: None,
) -> None:
  """Writes the model of `source` as the directory `destination`, all of it or nothing.

  Parameters are read, written and let go in groups, so that memory holds no more than the largest few.

  With `hf`, quantised parameters are written in the source's format, where that is one that is written, and otherwise
  in that of the compressed-tensors package. What no format holds is written as plain numbers, and a warning is logged.

  Args:
    source: an open checkpoint.
    destination: the directory to make; its conversion.json records the source's checksums and the rules.
    dtype: bfloat16, float16 or float32; None keeps the source's, bit for bit.
    to: `orbax`, or `hf` for safetensors under the hub's names, which transformers loads.
    force: replace a model directory that is at `destination` already.
    forms: the parameters to quantise, by path, each with its form in the layout `rows`.
    kept: the parameters, of `source.held`, that are written quantised as they are, bit for bit.
    report: called with a stage's name, and how much of it is done: (stage, done, total), in bytes.

  Raises:
    OSError: `destination` cannot be written.
    ValueError: a file of the source is damaged, `destination` exists, its disk has no room for the model, or an
      argument is not supported.
  """
  if to not in FORMATS:
    raise ValueError(f"to is {to!r}: not supported; supported: {', '.join(FORMATS)}")
  chosen = source.dtype if dtype is None else as_dtype(dtype)
  destination = Path(destination)
  if source.directory.resolve().is_relative_to(destination.resolve()):
    raise CheckpointError(f"{destination} holds the source {source.directory}: give another destination")
  parameters = quantised(source.lazily(chosen, kept), forms or {})
  # With these, what config.json says of the source's weights is true of those that are written.
  same = bool(kept) and source.keeps_all(kept)
  table = source.schema.rules({}) if to == "hf" else ()
  packing, settings = None, None if same else {}
  if to == "orbax":
    parameters = stored(parameters)
    size = parameters.nbytes(parameters.shapes)
  else:
    packing = _packing(source, table, parameters, native=same and not forms)
    size, settings = stored_bytes(table, parameters, packing), {} if packing is None else packing.settings
  with staged(destination, force=force) as directory, _room(destination, directory, size):
    wrote = _counter(report, "converting", size)
    if to == "orbax":
      orbax_files.write(directory, parameters, wrote)
    else:
      write_safetensors(directory, table, parameters, wrote=wrote, packing=packing)
    write_config(directory, source.config, chosen, settings=settings)
    files = [*source.described_by(), *source.write_companions(directory), *source.files()]
    write_record(directory, _record(source, chosen, to, files, report))


def _packing(source: Checkpoint, table: RuleTable, parameters: Parameters, *, native: bool) -> Packing | None:
  """How the quantised parameters are written; warns of those that are not. `native` allows the source's own format."""
  found = packing_of(table, parameters, source.format if native else None, looked_up=source.schema.looked_up)
  for line in aloud({} if found is None else found.plain, "written as plain numbers"):
    _LOG.warning("%s", line)
  return found


def _counter(report: Report, stage: str, total: int) -> Callable[[int], None]:
  """Reports what was done so far, given how much was done since the last call."""
  done = 0

  def count(more: int) -> None:
    nonlocal done
    done += more
    report(stage, done, total)

  return count


@contextlib.contextmanager
def _room(destination: Path, directory: Path, size: int) -> Iterator[None]:
  """Raises CheckpointError where the disk of `directory` has no `size` bytes free, now or when it runs full."""
  free = shutil.disk_usage(directory).free
  if free < size:
    raise _disk_full(destination, size, free)
  try:
    yield
  except (OSError, CheckpointError) as error:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # Orbax has the system's words for it inside a longer message.
    if full or os.strerror(errno.ENOSPC) in str(error):
      raise _disk_full(destination, size, shutil.disk_usage(directory).free) from error
    raise


def _disk_full(destination: Path, size: int, free: int) -> CheckpointError:
  return CheckpointError(
    f"the disk of {destination} is full: the weights take {size / 1e9:.3f} GB, {free / 1e9:.3f} GB are free; "
    "make room, or give a destination on another disk"
  )


def _record(source: Checkpoint, dtype: np.dtype, to: str, files: list[Path], report: Report) -> dict[str, Any]:
  count = _counter(report, "checksums", sum(path.stat().st_size for path in files))
  sums: dict[str, Any] = {}
  for path in files:
    sums[path.relative_to(source.directory).as_posix()] = fingerprint(path)
    count(path.stat().st_size)
  return {
    "lynx_jax": metadata.version("lynx-jax"),
    "family": source.schema.family,
    "to": to,
    "dtype": dtype.name,
    "source": {"directory": source.directory.resolve().name, "files": sums},
    "rules": source.rules(),
  }
