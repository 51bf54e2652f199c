"""Writes safetensors files tensor by tensor, so that no more than a group of parameters is held.

The safetensors library writes a file from tensors that are all in memory. Its format is a length of 8 bytes, a header
in JSON and the tensors' bytes (https://github.com/huggingface/safetensors#format); the bytes written here are those
that the library would write.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from checkpoints_convert.dtypes import CODES
from checkpoints_convert.files import write_json
from checkpoints_convert.parameters import Parameters, groups
from checkpoints_convert.rules import Rule, RuleTable, Shapes, carry, names, only_rules, source_shapes
from checkpoints_convert.safetensors_files import INDEX, SINGLE

SHARD_BYTES = 4 << 30
"""Bytes that a file holds at most, unless one rule's tensors are more."""

Wrote = Callable[[int], None]


def write_safetensors(
  directory: Path,
  table: RuleTable,
  parameters: Parameters,
  shard_bytes: int = SHARD_BYTES,
  wrote: Wrote = lambda count: None,
) -> None:
  """Writes parameters, under their names in a checkpoint, to one file, or to shards and an index.

  The parameters of one tensor must have one dtype. `wrote` is called with the bytes of each tensor once it is written.
  """
  shapes = source_shapes(table, parameters.shapes)
  shards = list(groups(only_rules(table), lambda rule: parameters.nbytes(names(rule.target)), shard_bytes))
  files: dict[str, str] = {}
  for number, rules in enumerate(shards, 1):
    file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
    dtypes = {name: parameters.dtypes[next(names(rule.target))] for rule in rules for name in names(rule.source)}
    _write_file(directory / file, rules, shapes, dtypes, parameters, wrote)
    files |= dict.fromkeys(dtypes, file)
  if len(shards) > 1:
    total = parameters.nbytes(parameters.shapes)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
    write_json(directory / INDEX, index)


def _write_file(
  path: Path, rules: list[Rule], shapes: Shapes, dtypes: Mapping[str, np.dtype], parameters: Parameters, wrote: Wrote
) -> None:
  header, offsets = _header(shapes, dtypes)
  with path.open("wb") as file:
    file.write(header)
    for group in groups(rules, lambda rule: parameters.nbytes(names(rule.target))):
      held = dict(parameters.read([name for rule in group for name in names(rule.target)]))
      for rule in group:
        dtype = parameters.dtypes[next(names(rule.target))]
        for name, tensor in carry(rule.inverse, shapes, held.__getitem__, dtype):
          file.seek(offsets[name])
          file.write(tensor.view(np.uint8).data)
          wrote(tensor.nbytes)


def _header(shapes: Shapes, dtypes: Mapping[str, np.dtype]) -> tuple[bytes, dict[str, int]]:
  """A file's first bytes, and the offset of every tensor in it."""
  # transformers refuses files that do not say "pt", whatever wrote them.
  entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
  starts: dict[str, int] = {}
  end = 0
  for name in sorted(dtypes, key=lambda name: (-dtypes[name].itemsize, name)):
    starts[name], end = end, end + math.prod(shapes[name]) * dtypes[name].itemsize
    entries[name] = {"dtype": CODES[dtypes[name]], "shape": shapes[name], "data_offsets": (starts[name], end)}
  text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
  text += b" " * (-len(text) % 8)
  return len(text).to_bytes(8, "little") + text, {name: 8 + len(text) + start for name, start in starts.items()}
