"""Opens a checkpoint directory, from the hub or converted, as a stream of a decoder's parameters."""

import abc
import contextlib
import functools
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert import orbax_weights
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.families import rules_for
from checkpoints_convert.formats import Format, Tensors, format_of
from checkpoints_convert.pytorch_files import PyTorchReader, weight_files
from checkpoints_convert.readers import (
  DTYPES,
  INDEX,
  SINGLE,
  Reader,
  SafetensorsReader,
  check_float,
  common_dtype,
  read_json,
)
from checkpoints_convert.rules import Rule, carry, check, describe, duplicates, names, only_rules, source_shapes
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.parameters import kept_in_float32, parameter_shapes
from lynx_jax.models.spec import DecoderSpec

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Source(abc.ABC):
  """A checkpoint: `spec` says what it holds, `shapes` gives the shape of every parameter."""

  def __init__(self, directory: Path, spec: DecoderSpec):
    self.directory = directory
    self.spec = spec
    self.shapes = parameter_shapes(spec)
    self._exact = kept_in_float32(spec)

  def _dtype_of(self, path: str, dtype: np.dtype) -> np.dtype:
    """What parameter `path` is in a model of `dtype`."""
    return DTYPES["F32"] if path in self._exact else dtype

  @property
  @abc.abstractmethod
  def dtype(self) -> np.dtype:
    """The dtype of the weights; CheckpointError where the files mix several."""

  @abc.abstractmethod
  def files(self) -> list[Path]:
    """The files that hold the weights."""

  @abc.abstractmethod
  def rules(self) -> dict[str, str]:
    """How each parameter was made of the files' tensors, in words; empty where they are the parameters."""

  @abc.abstractmethod
  def parameters(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter once, by path, in `dtype` or the one it always has: a fresh array, which the receiver owns."""


class HubSource(Source):
  """Files under the family's tensor names, all of which are checked before any data is read."""

  def __init__(self, directory: Path, spec: DecoderSpec, reader: Reader, form: Format | None = None):
    super().__init__(directory, spec)
    self._reader = reader
    self._tensors = Tensors(reader, form)
    self.table = rules_for(spec, self._tensors.shapes)
    check(self.table, self.shapes, self._tensors.shapes, directory)
    self._weights = {name: self._tensors.dtypes[name] for name in source_shapes(self.table, self.shapes)}
    check_float(self._weights, directory)

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the weights; CheckpointError where the files mix several."""
    exact = {name for rule in only_rules(self.table) if rule.target in self._exact for name in names(rule.source)}
    return common_dtype({name: code for name, code in self._weights.items() if name not in exact}, self.directory)

  def files(self) -> list[Path]:
    """The files that hold the tensors."""
    return [self.directory / name for name in sorted(set(self._reader.files.values()))]

  def rules(self) -> dict[str, str]:
    """The family's rules, in words."""
    return {describe(rule.target): describe(rule.source) for rule in only_rules(self.table)}

  def parameters(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter once, filled tensor by tensor: those of the largest tensors first, while little is held."""
    self._check_duplicates()
    for rule in sorted(only_rules(self.table), key=self._largest_tensor, reverse=True):
      wanted = self._dtype_of(rule.target, dtype) if isinstance(rule.target, str) else dtype
      yield from carry(rule, self.shapes, functools.partial(self._tensors.read, dtype=wanted), wanted)

  def _largest_tensor(self, rule: Rule) -> int:
    return max(math.prod(self._tensors.shapes[name]) for name in names(rule.source))

  def _check_duplicates(self) -> None:
    read = functools.partial(self._tensors.read, dtype=DTYPES["F32"])
    for entry in duplicates(self.table, self._tensors.shapes):
      first, second = read(entry.name), read(entry.of)
      if (first.shape, first.dtype) != (second.shape, second.dtype) or first.tobytes() != second.tobytes():
        raise CheckpointError(
          f"{self.directory}: config.json ties {entry.name} to {entry.of}, but the two tensors differ: set "
          "tie_word_embeddings to false, or remove the first"
        )


class OrbaxSource(Source):
  """A directory that this package converted."""

  def __init__(self, directory: Path, spec: DecoderSpec):
    super().__init__(directory, spec)
    self._dtypes = orbax_weights.check(directory, self.shapes)

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the weights."""
    return next(dtype for path, dtype in self._dtypes.items() if path not in self._exact)

  def files(self) -> list[Path]:
    """All files of the Orbax checkpoint."""
    return orbax_weights.files(self.directory)

  def rules(self) -> dict[str, str]:
    """None: parameters are stored as they are."""
    return {}

  def parameters(self, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter once."""
    dtypes = {path: self._dtype_of(path, dtype) for path in self.shapes}
    return orbax_weights.read(self.directory, self.shapes, dtypes)


@contextlib.contextmanager
def open_source(path: Path) -> Iterator[Source]:
  """Opens a checkpoint directory.

  Raises FileNotFoundError or NotADirectoryError where there is none at `path`, and CheckpointError where it
  cannot be used: an unknown family or setting, a missing, surplus or misshapen tensor, a damaged file.
  """
  check_directory(path)
  spec = read_spec(path)
  if orbax_weights.is_converted(path):
    yield OrbaxSource(path, spec)
    return
  form = format_of(read_json(path / "config.json"), path)
  with open_reader(path) as reader:
    yield HubSource(path, spec, reader, form)


def open_reader(directory: Path) -> Reader:
  """The files of a directory: safetensors, or else PyTorch's."""
  safetensors = (directory / SINGLE).is_file() or (directory / INDEX).is_file()
  pytorch = (directory / PyTorchReader.index).is_file() or weight_files(directory)
  return PyTorchReader(directory) if pytorch and not safetensors else SafetensorsReader(directory)


def has_weights(directory: Path) -> bool:
  """Whether there are files of weights, of whatever kind, beside config.json."""
  hub = (SINGLE, INDEX, PyTorchReader.index)
  return bool(
    orbax_weights.is_converted(directory)
    or any((directory / name).is_file() for name in hub)
    or weight_files(directory)
  )


def check_directory(path: Path) -> None:
  """Raises an OSError that says what to do, unless `path` is a directory with a config.json."""
  if not path.exists():
    if _HUB_NAME.fullmatch(str(path)):
      raise FileNotFoundError(
        f"no directory {str(path)!r} here; if it is a name on the Hugging Face Hub, download it first: "
        f"hf download {path} --local-dir DIR (older: huggingface-cli download), then give DIR"
      )
    raise FileNotFoundError(f"{path} does not exist: give a Hugging Face model directory, or a converted one")
  if not path.is_dir():
    raise NotADirectoryError(f"{path} is a file: give the directory that has config.json and the weights")
  if not (path / "config.json").is_file():
    raise FileNotFoundError(f"{path} has no config.json: give a Hugging Face model directory, or a converted one")


def read_spec(directory: Path) -> DecoderSpec:
  """The decoder that config.json, and generation_config.json where there is one, describe."""
  generation = directory / "generation_config.json"
  generation_config = read_json(generation) if generation.is_file() else None
  try:
    return spec_from_config(read_json(directory / "config.json"), generation_config)
  except CheckpointError:
    raise
  except (ValueError, TypeError) as error:
    raise CheckpointError(f"{directory}: {error}") from error


def as_dtype(dtype: Any) -> np.dtype:
  """One of the float dtypes that weights may have, from its name, NumPy or JAX type."""
  with contextlib.suppress(TypeError):
    found = np.dtype(dtype)
    if found in DTYPES.values():
      return found
  supported = ", ".join(str(choice) for choice in DTYPES.values())
  raise ValueError(f"dtype is {dtype!r}: not supported; supported: {supported}")
