"""A GGUF file as a checkpoint: its tensors, and the tokenizer that it holds."""

import collections
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints_convert.checkpoint import HubCheckpoint, Schema
from checkpoints_convert.dtypes import FLOATS
from checkpoints_convert.files import write_text
from checkpoints_convert.formats.gguf import EXACT, GGUF
from checkpoints_convert.gguf_files import GGUFReader
from checkpoints_convert.gguf_types import BY_NAME
from checkpoints_convert.packed_rules import nbytes
from checkpoints_convert.rules import names, only_rules

Texts = Mapping[str, str]
"""Files by name."""

_AS_IT_IS = "held as it is"


class GGUFCheckpoint(HubCheckpoint):
  """The tensors of a GGUF file. `config` is what its metadata amounts to as a config.json.

  `companions` makes the files that are to lie beside weights, from what the GGUF file holds in their place.
  """

  def __init__(self, reader: GGUFReader, config: Mapping[str, Any], schema: Schema, companions: Callable[[], Texts]):
    super().__init__(reader.directory, config, schema, reader, GGUF(), reader.path)
    self.reader, self._companions = reader, companions

  @property
  def dtype(self) -> np.dtype:
    """That of most of the numbers; bfloat16 where most are quantised.

    llama.cpp keeps vectors and routers in float32, whatever the others are.
    """
    numbers: collections.Counter[str] = collections.Counter()
    for name, code in self._weights.items():
      numbers[code] += math.prod(self._tensors.shapes[name])
    return FLOATS[numbers.most_common(1)[0][0]]

  def changes(self, kept: Collection[str]) -> list[str]:
    """A line about all types, where one is held in more bits than in the file, or with rounded scales."""
    found: dict[str, str] = {}
    for rule in only_rules(self.table):
      for name in names(rule.source) if {*names(rule.target)} <= {*kept} else ():
        found.setdefault(self.reader.dtypes[name], name)
    told = {code: self._held_as(code, name) for code, name in sorted(found.items())}
    changed = any(how != _AS_IT_IS for how in told.values())
    types = "; ".join(f"{code} {how}" for code, how in told.items())
    return [*super().changes(kept), *([f"{self.reader.path}: {types}"] if changed else [])]

  def _held_as(self, code: str, name: str) -> str:
    """How the tensor `name`, of the type `code`, is held, with bits a number."""
    kind, held = BY_NAME[code], self._tensors.packed[name].held
    assert held is not None, name
    there, here = 8 * kind.nbytes / kind.numbers, 8 * nbytes(held) / math.prod(held.shape)
    if code in EXACT and here <= there:
      return _AS_IT_IS
    exact = "exactly" if code in EXACT else "with scales rounded to float16"
    return f"held {exact} as {held.form.name}, in {here:.3g} bits a number for the file's {there:.3g}"

  def is_exact(self, path: str) -> bool:
    """Whether scales need no rounding."""
    rule = next(rule for rule in only_rules(self.table) if path in names(rule.target))
    return all(self.reader.dtypes[name] in EXACT for name in names(rule.source))

  @property
  def stored_as(self) -> list[str]:
    """The types of GGUF that tensors have, those of most numbers first."""
    numbers: collections.Counter[str] = collections.Counter()
    for name in self._tensors.packed:
      numbers[self.reader.dtypes[name]] += math.prod(self.reader.shapes[name])
    return [f"GGUF {', '.join(code for code, _ in numbers.most_common())}"] if numbers else []

  def described_by(self) -> list[Path]:
    """None: the file describes itself."""
    return []

  def write_companions(self, directory: Path) -> list[Path]:
    """Writes the tokenizer's files."""
    for name, text in self._companions().items():
      write_text(directory / name, text)
    return []
