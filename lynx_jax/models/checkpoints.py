"""Checkpoint directories as decoders: what a family knows of its files, given to the package that reads files."""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import checkpoints_convert
from checkpoints_convert import Checkpoint, CheckpointError, Schema, open_checkpoint
from checkpoints_convert.checkpoint import check_directory, has_weights
from checkpoints_convert.conversion import Report
from checkpoints_convert.files import read_json
from checkpoints_convert.formats import expected
from checkpoints_convert.gguf_checkpoint import GGUFCheckpoint
from checkpoints_convert.gguf_files import GGUFReader, find_gguf
from checkpoints_convert.packed_rules import Held
from checkpoints_convert.packing import aloud
from lynx_jax.hub import hub_directory, is_hub_name
from lynx_jax.models.families import spec_from_config, tensor_rules
from lynx_jax.models.families.gguf_config import Config, config_from_gguf
from lynx_jax.models.parameters import declarations, kept_in_float32, parameter_shapes
from lynx_jax.models.released import released_config
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.placement import Role, check_weights, form_for, kept
from lynx_jax.text.tokenizer import tokenizer_files

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def open_model(path: str | os.PathLike[str]) -> Iterator[tuple[DecoderSpec, Checkpoint]]:
  """Opens the checkpoint `path`: the decoder that it describes, and its weights, which are checked.

  It is a directory, or a GGUF file. Raises FileNotFoundError or NotADirectoryError where there is none at `path`, and
  CheckpointError where it cannot be used: an unknown family or setting, a missing, surplus or misshapen tensor, a
  damaged file.
  """
  directory = Path(path)
  file = gguf_file(directory)
  if file is not None:
    with GGUFReader(file) as reader:
      config = _gguf_config(reader)
      spec = _spec(file, config)
      texts = functools.partial(tokenizer_files, reader.metadata, reader.path)
      yield spec, GGUFCheckpoint(reader, config, schema(spec), texts)
    return
  check_model_directory(directory)
  config = read_json(directory / "config.json")
  spec = _spec(directory, config, _generation_config(directory))
  with open_checkpoint(directory, config, schema(spec)) as checkpoint:
    yield spec, checkpoint


def read_spec(path: str | os.PathLike[str]) -> DecoderSpec:
  """The decoder that config.json, and generation_config.json where there is one, or a GGUF file describe.

  Raises as `open_model`.
  """
  directory = Path(path)
  return _spec(directory, read_config(directory), _generation_config(directory))


def read_config(path: Path) -> Config:
  """The parsed config.json of a directory, or what the metadata of a GGUF file amounts to; raises as `open_model`."""
  file = gguf_file(path)
  if file is not None:
    with GGUFReader(file) as reader:
      return _gguf_config(reader)
  check_model_directory(path)
  return read_json(path / "config.json")


def gguf_file(path: Path) -> Path | None:
  """The GGUF file that `path` names, or the one in the directory `path` where it has no other weights, or None.

  Raises CheckpointError where the directory has several models, and no other weights.
  """
  return None if path.is_dir() and has_weights(path) else find_gguf(path)


def _gguf_config(reader: GGUFReader) -> Config:
  try:
    return config_from_gguf(reader.metadata, reader.shapes)
  except ValueError as error:
    raise CheckpointError(f"{reader.path}: {error}") from error


def expected_held(spec: DecoderSpec, config: Config, where: object) -> Held:
  """The parameters that files of a config.json are to hold quantised, by path, as shapes and dtypes.

  None where its settings of quantised weights are not supported.
  """
  shapes, roles = parameter_shapes(spec), (Role.PROJECTION, Role.EXPERT, Role.EXPANSION)
  linear = {path: shapes[path] for path, one in declarations(spec).items() if one.role in roles}
  try:
    return expected.expected_held(config, where, functools.partial(tensor_rules, spec), shapes, linear)
  except CheckpointError:
    return {}


def check_model_directory(path: Path) -> None:
  """Raises an OSError that says what to do, unless `path` is a directory with a config.json."""
  if not path.exists() and released_config(str(path)) is not None:
    repository = path if len(path.parts) > 1 else f"ORGANISATION/{path}"
    raise FileNotFoundError(
      f"no directory {str(path)!r} here: the model's configuration is known (lynx-jax info {path}), but its weights "
      f"must be downloaded first: hf download {repository} --local-dir DIR, then give DIR"
    )
  check_directory(path)


def schema(spec: DecoderSpec) -> Schema:
  """The parameters of a decoder, and how its family's files name them."""
  return Schema(
    family=spec.family,
    shapes=parameter_shapes(spec),
    float32=kept_in_float32(spec),
    rules=lambda found: tensor_rules(spec, found),
    looked_up=frozenset({"embedding"}),
  )


def convert(
  source: str | os.PathLike[str],
  destination: str | os.PathLike[str],
  *,
  dtype: Any = None,
  to: str = "orbax",
  force: bool = False,
  weights: str | None = None,
  report: Report = lambda stage, done, total: None,
) -> None:
  """Writes the model of directory `source` as directory `destination`, all of it or nothing.

  Args:
    source: a Hugging Face model directory (safetensors or PyTorch files), or one that this function made.
    destination: the directory to make; its conversion.json records the source's checksums and the rules.
    dtype: bfloat16, float16 or float32; None keeps the source's, bit for bit.
    to: `orbax`, or `hf` for safetensors under the hub's names, which transformers loads.
    force: replace a model directory that is at `destination` already.
    weights: as `load` takes it. "int8" or "int4": what is written is as small as what `load` would make, and is loaded
      as it is. "float" writes plain numbers. None keeps what the source holds quantised, bit for bit. With `hf`
      quantised weights are written in the source's format, or in that of the compressed-tensors package; what neither
      holds is written as plain numbers, of which a warning is logged.
    report: called with a stage's name, and how much of it is done: (stage, done, total), in bytes.

  Raises:
    OSError: there is no checkpoint directory at `source`, or `destination` cannot be written.
    ValueError: the checkpoint cannot be used, `destination` exists, or an argument is not supported.
  """
  check_weights(weights)
  if isinstance(source, str) and is_hub_name(source):
    source = hub_directory(source)
  with open_model(source) as (spec, checkpoint):
    declared = declarations(spec)
    packed = {
      path
      for path, one in checkpoint.held.items()
      if (weights is None and checkpoint.is_exact(path)) or kept(one, declared[path].role, weights)
    }
    if weights is None:
      inexact = dict.fromkeys(sorted(checkpoint.held.keys() - packed), "its scales would have to be rounded")
      for line in aloud(checkpoint.unheld() | inexact, "written as plain numbers"):
        _LOG.warning("%s", line)
    forms = {path: form_for(one.role, weights) for path, one in declared.items() if path not in packed}
    rows = {path: dataclasses.replace(form, layout="rows") for path, form in forms.items() if form is not None}
    checkpoints_convert.convert(
      checkpoint, destination, dtype=dtype, to=to, force=force, forms=rows, kept=packed, report=report
    )


def _generation_config(directory: Path) -> Config | None:
  path = directory / "generation_config.json"
  return read_json(path) if path.is_file() else None


def _spec(where: Path, config: Mapping[str, Any], generation_config: Config | None = None) -> DecoderSpec:
  try:
    return spec_from_config(config, generation_config)
  except CheckpointError:
    raise
  except (ValueError, TypeError, ArithmeticError) as error:
    raise CheckpointError(f"{where}: {error}") from error
