"""Writes safetensors files tensor by tensor, so that no more than a group of parameters is held.

The safetensors library writes a file from tensors that are all in memory. Its format is a length of 8 bytes, a header
in JSON and the tensors' bytes (https://github.com/huggingface/safetensors#format); the bytes written here are those
that the library would write.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from checkpoints_convert.dtypes import CODES
from checkpoints_convert.files import write_json
from checkpoints_convert.packed_rules import Piece, carry_packed
from checkpoints_convert.packing import Packing
from checkpoints_convert.parameters import Parameters, groups
from checkpoints_convert.rules import Rule, RuleTable, Shape, carry, names, only_rules, source_shapes
from checkpoints_convert.safetensors_files import INDEX, SINGLE
from pallas_kernels.weights.widening import widened

SHARD_BYTES = 4 << 30
"""Bytes that a file holds at most, unless one rule's tensors are more."""

Wrote = Callable[[int], None]
Stored: TypeAlias = Mapping[str, tuple[Shape, np.dtype]]
"""Shape and dtype of tensors by name."""


def write_safetensors(
  directory: Path,
  table: RuleTable,
  parameters: Parameters,
  shard_bytes: int = SHARD_BYTES,
  wrote: Wrote = lambda count: None,
  packing: Packing | None = None,
) -> None:
  """Writes parameters, under their names in a checkpoint, to one file, or to shards and an index.

  The parameters of one tensor must have one dtype. Those that are quantised are written as `packing` says, and as plain
  numbers where it does not name them. `wrote` is called with the bytes of each tensor once it is written.
  """
  stored = stored_tensors(table, parameters, packing)
  shards = list(groups(stored, lambda rule: _nbytes(stored[rule]), shard_bytes))
  files: dict[str, str] = {}
  for number, rules in enumerate(shards, 1):
    file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    tensors = {name: kind for rule in rules for name, kind in stored[rule].items()}
    _write_file(directory / file, rules, tensors, parameters, packing, wrote)
    files |= dict.fromkeys(tensors, file)
  if len(shards) > 1:
    index = {"metadata": {"total_size": sum(map(_nbytes, stored.values()))}, "weight_map": dict(sorted(files.items()))}
    write_json(directory / INDEX, index)


def stored_tensors(table: RuleTable, parameters: Parameters, packing: Packing | None = None) -> dict[Rule, Stored]:
  """The tensors that `write_safetensors` writes for each rule."""
  source_shapes(table, parameters.shapes)
  return {rule: _stored(rule, parameters, packing) for rule in only_rules(table)}


def stored_bytes(table: RuleTable, parameters: Parameters, packing: Packing | None = None) -> int:
  """Bytes of all tensors that `write_safetensors` writes."""
  return sum(map(_nbytes, stored_tensors(table, parameters, packing).values()))


def _nbytes(tensors: Stored) -> int:
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in tensors.values())


def _stored(rule: Rule, parameters: Parameters, packing: Packing | None) -> Stored:
  """Shape and dtype of every tensor that is written for the rule."""
  if packing is not None and rule in packing.pieces:
    pieces, form = packing.pieces[rule], packing.format
    return {part: kind for name, piece in pieces.items() for part, kind in form.written_shapes(name, piece).items()}
  dtype = parameters.dtypes[next(names(rule.target))]
  return {name: (shape, dtype) for name, shape in rule.source_shapes(parameters.shapes).items()}


def _tensors(
  rule: Rule, parameters: Parameters, packing: Packing | None, held: Mapping[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Every tensor that is written for the rule, given its parameters."""
  if packing is not None and rule in packing.pieces:
    for name, piece in carry_packed(rule.inverse, packing.pieces[rule], lambda path: Piece(held[path])):
      yield from packing.format.written(name, piece).items()
    return
  shapes, dtype = rule.source_shapes(parameters.shapes), parameters.dtypes[next(names(rule.target))]

  def numbers(path: str) -> np.ndarray:
    return widened(held[path], dtype) if path in parameters.held else held[path]

  yield from carry(rule.inverse, shapes, numbers, dtype)


def _write_file(
  path: Path, rules: list[Rule], tensors: Stored, parameters: Parameters, packing: Packing | None, wrote: Wrote
) -> None:
  header, offsets = _header(tensors)
  with path.open("wb") as file:
    file.write(header)
    for group in groups(rules, lambda rule: parameters.nbytes(names(rule.target))):
      held = dict(parameters.read([name for rule in group for name in names(rule.target)]))
      for rule in group:
        for name, tensor in _tensors(rule, parameters, packing, held):
          file.seek(offsets[name])
          file.write(np.ascontiguousarray(tensor).view(np.uint8).data)
          wrote(tensor.nbytes)


def _header(tensors: Stored) -> tuple[bytes, dict[str, int]]:
  """A file's first bytes, and the offset of every tensor in it."""
  # transformers refuses files that do not say "pt", whatever wrote them.
  entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
  starts: dict[str, int] = {}
  end = 0
  for name in sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name)):
    shape, dtype = tensors[name]
    starts[name], end = end, end + math.prod(shape) * dtype.itemsize
    entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": (starts[name], end)}
  text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + start for name, start in starts.items()}
