"""Writes model directories, from the hub's files or converted ones, so that nothing is ever half there."""

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.readers import INDEX, SINGLE
from checkpoints_convert.rules import Rule, RuleTable, carry, names, only_rules, source_shapes

# What travels with the weights, unchanged.
COMPANIONS = (
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
  "chat_template.jinja",
  "README.md",
  "LICENSE",
)
RECORD = "conversion.json"
SHARD_BYTES = 4 << 30


@contextlib.contextmanager
def staged(destination: Path, *, force: bool) -> Iterator[Path]:
  """A directory to fill, under a temporary name beside `destination`, which it becomes at the end.

  Whatever fails on the way, the directory vanishes and an older `destination` is as it was. Raises
  CheckpointError where `destination` exists and `force` is not set, or is no model directory.
  """
  check_destination(destination, force=force)
  destination.parent.mkdir(parents=True, exist_ok=True)
  unique = uuid.uuid4().hex[:8]
  partial = destination.with_name(f".{destination.name}.{unique}.partial")
  replaced = destination.with_name(f".{destination.name}.{unique}.replaced")
  partial.mkdir()
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
  shutil.rmtree(replaced, ignore_errors=True)


def check_destination(destination: Path, *, force: bool) -> None:
  """Raises CheckpointError unless `destination` is free, or `force` is set and it is a model directory."""
  if not destination.exists():
    return
  if not force:
    raise CheckpointError(f"{destination} exists: give another name, or --force to replace it")
  if not destination.is_dir() or (any(destination.iterdir()) and not (destination / "config.json").exists()):
    raise CheckpointError(f"{destination} is no model directory, which --force would replace: give another name")


def write_config(directory: Path, config: Mapping[str, Any], dtype: np.dtype) -> None:
  """config.json, naming the dtype that the weights now have; they are not quantised."""
  names = [name for name in ("dtype", "torch_dtype") if name in config] or ["dtype"]
  kept = {name: value for name, value in config.items() if name != "quantization_config"}
  _write_json(directory / "config.json", {**kept, **dict.fromkeys(names, dtype.name)})


def copy_companions(source: Path, directory: Path) -> list[Path]:
  """Copies the files that travel with the weights; returns their originals."""
  present = [source / name for name in COMPANIONS if (source / name).is_file()]
  for path in present:
    shutil.copyfile(path, directory / path.name)
  return present


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
  """conversion.json: where the directory comes from."""
  _write_json(directory / RECORD, record)


def fingerprint(path: Path) -> dict[str, Any]:
  """Size in bytes and SHA-256 of a file."""
  with path.open("rb") as file:
    return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_safetensors(
  directory: Path, table: RuleTable, arrays: Mapping[str, Any], shard_bytes: int = SHARD_BYTES
) -> None:
  """Writes parameters, under their names in a checkpoint, to one file, or to shards and an index.

  `arrays` are NumPy or JAX arrays, by path; those of one tensor have one dtype, as `by_path(decoder)` gives them.
  """
  shapes = source_shapes(table, {path: array.shape for path, array in arrays.items()})

  def read(path: str) -> np.ndarray:
    return np.asarray(arrays[path])

  shards = _shards(table, arrays, shard_bytes)
  files: dict[str, str] = {}
  for number, rules in enumerate(shards, 1):
    file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = {
      name: array
      for rule in rules
      for name, array in carry(rule.inverse, shapes, read, arrays[next(names(rule.target))].dtype)
    }
    # transformers refuses files that do not say so, whatever wrote them.
    save_file(tensors, directory / file, metadata={"format": "pt"})
    # safetensors makes files that only their owner can read.
    (directory / file).chmod(directory.stat().st_mode & 0o666)
    files |= dict.fromkeys(tensors, file)
  if len(shards) > 1:
    total = sum(array.nbytes for array in arrays.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    _write_json(directory / INDEX, index)


def _shards(table: RuleTable, arrays: Mapping[str, Any], limit: int) -> list[list[Rule]]:
  shards: list[list[Rule]] = [[]]
  filled = 0
  for rule in only_rules(table):
    size = sum(arrays[path].nbytes for path in names(rule.target))
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(rule)
    filled += size
  return shards


def _write_json(path: Path, value: Any) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
