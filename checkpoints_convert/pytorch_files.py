"""Reads PyTorch's own weight files, with or without an index; needs torch (extra `torch`)."""

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
  "torch.uint8": ("U8", np.dtype(np.uint8)),
}

# Pages of a mapped file count as this process's memory until the file is closed, so it is reopened after this
# many bytes.
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
    raise corrupt(path, "no zip archive, as torch.save has written since version 1.6; load and save older ones anew")
  try:
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
  except Exception as error:  # torch raises many kinds, of many lines, for a damaged file or one that brings code
    reason = str(error).strip().splitlines()[0]
    raise CheckpointError(
      f"{path} is no file of tensors alone, or is damaged ({reason}): download it again, or save the model's "
      "state_dict() with torch.save"
    ) from error
  if not isinstance(state, dict):
    raise _not_a_state(path, f"a {type(state).__name__}")
  for name, tensor in state.items():
    if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
      raise _not_a_state(path, f"{name!r}: {type(tensor).__name__}")
  return {name: tensor.detach() for name, tensor in state.items()}


def _not_a_state(path: Path, found: str) -> CheckpointError:
  return CheckpointError(f"{path} holds {found}, expected dense tensors by name: save the model's state_dict()")


def _bits(tensor: Any) -> np.ndarray:
  """The tensor's memory as unsigned integers: NumPy has no bfloat16 or 8-bit floats that torch knows of."""
  import torch

  integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()]
  return tensor.contiguous().view(integers).numpy()
