"""Reads PyTorch's own weight files, with or without an index; needs torch (extra `torch`)."""

import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.reader import Reader, corrupt

_PATTERNS = ("*.bin", "*.pt", "*.pth")
# Beside weights, training leaves these.
_NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "scaler", "rng_state", "random_states")
_CODES = {
  "torch.bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
  "torch.float16": ("F16", np.dtype(np.float16)),
  "torch.float32": ("F32", np.dtype(np.float32)),
  "torch.float8_e4m3fn": ("F8_E4M3", np.dtype(ml_dtypes.float8_e4m3fn)),
  "torch.float8_e8m0fnu": ("F8_E8M0", np.dtype(ml_dtypes.float8_e8m0fnu)),
  "torch.uint8": ("U8", np.dtype(np.uint8)),
  "torch.int8": ("I8", np.dtype(np.int8)),
  "torch.int32": ("I32", np.dtype(np.int32)),
  "torch.int64": ("I64", np.dtype(np.int64)),
}

# Pages of a mapped file count as this process's memory until the file is closed, so it is reopened after this many
# bytes.
_REOPEN_BYTES = 64 << 20


def weight_files(directory: Path) -> list[str]:
  """Names of the files that may hold weights, of one kind: `.bin` before `.pt` before `.pth`."""
  for pattern in _PATTERNS:
    found = sorted(path.name for path in directory.glob(pattern) if not path.name.startswith(_NO_WEIGHTS))
    if found:
      return found
  return []


class PyTorchReader(Reader):
  """`pytorch_model.bin`, its shards and index, or whatever `.bin`, `.pt` or `.pth` files of tensors there are."""

  single = "pytorch_model.bin"
  index = "pytorch_model.bin.index.json"

  def __init__(self, directory: Path):
    self._open: tuple[str, dict[str, Any]] | None = None
    self._bytes_read = 0
    super().__init__(directory)

  def unlisted_files(self) -> list[str]:
    """The one file, or all of a kind."""
    return [self.single] if (self.directory / self.single).is_file() else weight_files(self.directory)

  def _header(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    for name, tensor in _load(path).items():
      code, _ = _CODES.get(str(tensor.dtype), (str(tensor.dtype), None))
      yield name, tuple(tensor.shape), code

  def close(self) -> None:
    """Lets go of the open file, and of its mapped pages."""
    self._open, self._bytes_read = None, 0

  def read(self, name: str) -> np.ndarray:
    """One tensor bit for bit, as its file has it; not to be written to."""
    file = self.files[name]
    if self._open is None or self._open[0] != file or self._bytes_read > _REOPEN_BYTES:
      self.close()
      self._open = file, _load(self.directory / file)
    tensor = self._open[1][name]
    self._bytes_read += tensor.nbytes
    _, dtype = _CODES[str(tensor.dtype)]
    return _bits(tensor).view(dtype)


def _load(path: Path) -> dict[str, Any]:
  """The tensors of a file, mapped and not read; no code that the file may bring is run."""
  try:
    import torch
  except ImportError as error:
    raise CheckpointError(
      f"{path} holds PyTorch weights, and torch is not installed: pip install 'lynx-jax[torch]', or convert them "
      "elsewhere: python -m checkpoints_convert SRC DST --to hf"
    ) from error
  if not zipfile.is_zipfile(path):
    raise _no_archive(path)
  try:
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except pickle.UnpicklingError as error:
    # torch's message advises to load the file with `weights_only=False`, which would run what it brings.
    named = re.search(r"GLOBAL (\S+) was not an allowed global", str(error))
    raise CheckpointError(
      f"{path} holds {named[1] if named else 'Python objects'} beside tensors, and loading that could run code that "
      "the file brings: get the model as safetensors, or from its author as a file of the state_dict() alone"
    ) from error
  except Exception as error:  # torch raises many kinds, of many lines, for a damaged file
    raise corrupt(path, next(iter(str(error).strip().splitlines()), type(error).__name__)) from error
  if not isinstance(state, dict):
    raise _not_a_state(path, f"a {type(state).__name__}")
  for name, tensor in state.items():
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
      raise _not_a_state(path, f"{name!r}: {type(tensor).__name__}")
  return {name: tensor.detach() for name, tensor in state.items()}


def _no_archive(path: Path) -> CheckpointError:
  """The error for a file that is no zip archive, which torch.save has written since version 1.6."""
  with path.open("rb") as file:
    start = file.read(4)
  if start.startswith(b"\x80"):  # a pickle
    return CheckpointError(
      f"{path} is in the form that PyTorch wrote before version 1.6: write it anew with torch, "
      "torch.save(torch.load(FILE, weights_only=True), FILE), or get the model as safetensors"
    )
  return corrupt(path, "its end is missing" if start.startswith(b"PK") else "it is no file of PyTorch's")


def _not_a_state(path: Path, found: str) -> CheckpointError:
  return CheckpointError(f"{path} holds {found}, expected dense tensors by name: save the model's state_dict()")


def _bits(tensor: Any) -> np.ndarray:
  """The tensor's memory as unsigned integers: NumPy has no bfloat16 or 8-bit floats that torch knows of."""
  import torch

  integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
  return tensor.contiguous().view(integers).numpy()
