"""Opens a checkpoint directory, from the hub or converted, as the parameters of a model."""

import abc
import contextlib
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from checkpoints_convert import orbax_files
from checkpoints_convert.companions import copy_companions
from checkpoints_convert.dtypes import FLOATS, check_float, common_dtype
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import Format, Tensors, format_of, quantization_settings
from checkpoints_convert.packed_rules import Held, Piece, carry_packed, packed_targets
from checkpoints_convert.packing import aloud
from checkpoints_convert.parameters import Parameters
from checkpoints_convert.pytorch_files import PyTorchReader, weight_files
from checkpoints_convert.quantised import held_in, stored_arrays, together
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import (
  Rule,
  RuleTable,
  Shapes,
  carry,
  check,
  describe,
  duplicates,
  names,
  only_rules,
  source_shapes,
)
from checkpoints_convert.safetensors_files import INDEX, SINGLE, SafetensorsReader
from pallas_kernels import QuantizedWeight
from pallas_kernels.weights.widening import widened

# Models and files that differ by more are not compared tensor by tensor.
_TIMES_LARGER = 100

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
  """The parameters of a model, and how files name them.

  Attributes:
    family: what conversion.json records as the model's family.
    shapes: the shape of every parameter, by path, such as `layers.0.attention.query`.
    float32: the parameters that are float32 in a model of any dtype.
    looked_up: the parameters whose rows are looked up, which formats of quantised weights have in plain numbers.
    rules: the rule table for a checkpoint, given the shapes of the tensors that it holds, since the same model may be
      written under several spellings. No shapes at all ask for the spelling of files that are to be written.
  """

  family: str
  shapes: Shapes
  float32: frozenset[str]
  rules: Callable[[Shapes], RuleTable]
  looked_up: frozenset[str] = frozenset()

  def dtype_of(self, path: str, dtype: np.dtype) -> np.dtype:
    """The dtype of parameter `path` in a model of `dtype`."""
    return FLOATS["F32"] if path in self.float32 else dtype


class Checkpoint(abc.ABC):
  """An open checkpoint directory.

  Attributes:
    directory: where it is.
    config: its parsed config.json.
    schema: the parameters that it holds.
  """

  def __init__(self, directory: Path, config: Mapping[str, Any], schema: Schema):
    self.directory = directory
    self.config = config
    self.schema = schema

  @property
  @abc.abstractmethod
  def dtype(self) -> np.dtype:
    """The dtype of the weights; CheckpointError where the files mix several."""

  @abc.abstractmethod
  def files(self) -> list[Path]:
    """The files that hold the weights."""

  def described_by(self) -> list[Path]:
    """The files that say what the model is."""
    return [self.directory / "config.json"]

  def write_companions(self, directory: Path) -> list[Path]:
    """Puts into `directory` what travels with the weights, such as the tokenizer; returns what was copied."""
    return copy_companions(self.directory, directory)

  @abc.abstractmethod
  def rules(self) -> dict[str, str]:
    """How each parameter is made of the files' tensors, in words; empty where files hold the parameters themselves."""

  @property
  @abc.abstractmethod
  def held(self) -> Held:
    """The parameters that the files hold quantised in a form that can be kept, by path, as shapes and dtypes."""

  @property
  @abc.abstractmethod
  def format(self) -> Format | None:
    """The format that the settings beside the weights describe, None where they describe none."""

  def keeps_all(self, kept: Collection[str]) -> bool:
    """Whether everything that the files hold quantised is in the parameters `kept`."""
    return True

  def unheld(self) -> dict[str, str]:
    """The files' quantised tensors that no parameter can hold as they are, each with the reason."""
    return {}

  def changes(self, kept: Collection[str]) -> list[str]:
    """What is said aloud of quantised weights that are not held as the files have them, where those of `kept` are."""
    return [f"{self.directory}: {line}" for line in aloud(self.unheld(), "held as plain numbers")]

  def is_exact(self, path: str) -> bool:
    """Whether what `held` keeps of a parameter means the numbers of the files to the last bit."""
    return True

  @property
  def stored_as(self) -> list[str]:
    """What the files hold quantised weights as, in words; empty where they hold none."""
    method = (quantization_settings(self.config, self.directory) or {}).get("quant_method")
    return [method] if method else sorted({one.form.code for one in self.held.values()})

  @abc.abstractmethod
  def parameters(
    self, dtype: np.dtype, paths: Collection[str] | None = None, kept: Collection[str] = ()
  ) -> Iterator[tuple[str, np.ndarray | QuantizedWeight]]:
    """Every parameter once, or those of `paths`, each with its path, in no particular order.

    Those of `kept`, which are in `held`, are quantised as the files have them, and stand for numbers of `dtype`. All
    others are in `dtype`, or in float32 where the schema says so. Each is fresh memory, which belongs to the receiver.
    """

  def lazily(self, dtype: np.dtype, kept: Collection[str] = ()) -> Parameters:
    """The parameters in `dtype`, those of `kept` quantised, to be read when they are asked for."""
    read: Any = functools.partial(self.parameters, dtype, kept=kept)
    dtypes = {path: self.schema.dtype_of(path, dtype) for path in self.schema.shapes}
    held = {path: self.held[path] for path in kept}
    return Parameters(shapes=self.schema.shapes, dtypes=dtypes, read=read, held=held)


class HubCheckpoint(Checkpoint):
  """Files under the family's tensor names. Names, shapes and types are all checked before any data is read."""

  def __init__(
    self,
    directory: Path,
    config: Mapping[str, Any],
    schema: Schema,
    reader: Reader,
    form: Format | None = None,
    where: Path | None = None,
  ):
    """`where` is what messages name, by default the directory."""
    super().__init__(directory, config, schema)
    self._reader, self._form, where = reader, form, where or directory
    self._tensors = Tensors(reader, form)
    _check_size(schema.shapes, self._tensors.shapes, where)
    self.table = schema.rules(self._tensors.shapes)
    check(self.table, schema.shapes, self._tensors.shapes, where)
    self._duplicates_checked = False
    self._weights = {name: self._tensors.dtypes[name] for name in source_shapes(self.table, schema.shapes)}
    check_float(self._weights, where)

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the weights; CheckpointError where the files mix several."""
    exact = {
      name for rule in only_rules(self.table) if rule.target in self.schema.float32 for name in names(rule.source)
    }
    deciding = {name: code for name, code in self._weights.items() if name not in exact}
    # Beside plain weights, those that are quantised do not say what the model's numbers are.
    plain = {name: code for name, code in deciding.items() if name not in self._tensors.packed}
    return common_dtype(plain or deciding, self.directory)

  def files(self) -> list[Path]:
    """The files that hold the tensors."""
    return [self.directory / name for name in sorted(set(self._reader.files.values()))]

  def rules(self) -> dict[str, str]:
    """The family's rules, in words."""
    return {describe(rule.target): describe(rule.source) for rule in only_rules(self.table)}

  @property
  def format(self) -> Format | None:
    """That of the files."""
    return self._form

  def keeps_all(self, kept: Collection[str]) -> bool:
    """Whether every quantised tensor goes into parameters of `kept` alone."""
    whole = [rule for rule in only_rules(self.table) if {*names(rule.target)} <= {*kept}]
    carried = {name for rule in whole for name in names(rule.source)}
    return {*self._tensors.packed} & {*self._weights} <= carried

  def unheld(self) -> dict[str, str]:
    """The matrices that no form holds, or no rule carries as they are."""
    found: dict[str, str] = {}
    for rule in only_rules(self.table) if self._tensors.packed else ():
      packed = {name: self._tensors.packed[name] for name in names(rule.source) if name in self._tensors.packed}
      if {*names(rule.target)} <= self.held.keys():
        continue
      for name, one in packed.items():
        if len(one.shape) > 1:
          several = "it belongs to tensors that are quantised in other ways, or is quantised across their inputs"
          found[name] = one.why if one.held is None else several
    return found

  @property
  def held(self) -> Held:
    """What rules can carry as it is."""
    return self._held

  @functools.cached_property
  def _held(self) -> Held:
    pieces = {name: Piece(one.held, one.swapped) for name, one in self._tensors.packed.items() if one.held is not None}
    found: dict[str, QuantizedWeight] = {}
    for rule in only_rules(self.table) if pieces else ():
      targets = packed_targets(rule, self.schema.shapes, pieces)
      found |= {path: piece.weight for path, piece in targets.items() if not piece.swapped}
    return found

  def parameters(
    self, dtype: np.dtype, paths: Collection[str] | None = None, kept: Collection[str] = ()
  ) -> Iterator[tuple[str, np.ndarray | QuantizedWeight]]:
    """Every parameter once, or those of `paths`, filled tensor by tensor.

    Those that take most memory to make come first: a tensor, and a parameter that the receiver may make smaller, are
    held beside what was read before, which is little then.
    """
    self._check_duplicates()
    wanted = set(self.schema.shapes if paths is None else paths)
    rules = [rule for rule in only_rules(self.table) if not wanted.isdisjoint(names(rule.target))]
    for rule in sorted(rules, key=self._held_at_once, reverse=True):
      named = wanted.intersection(names(rule.target))
      packed = {path: Piece(self.held[path]) for path in named.intersection(kept)}
      for path, (weight, _) in carry_packed(rule, packed, self._tensors.read_packed):
        yield path, dataclasses.replace(weight, numbers=self.schema.dtype_of(path, dtype).name)
        # Otherwise it would be there until the next one has been made.
        del weight
      if plain := named.difference(packed):
        made = self.schema.dtype_of(rule.target, dtype) if isinstance(rule.target, str) else dtype
        yield from carry(rule, self.schema.shapes, functools.partial(self._tensors.read, dtype=made), made, plain)

  def _held_at_once(self, rule: Rule) -> int:
    """Numbers of the rule's largest tensor and of its largest parameter."""
    tensor = max(math.prod(self._tensors.shapes[name]) for name in names(rule.source))
    return tensor + max(math.prod(self.schema.shapes[path]) for path in names(rule.target))

  def _check_duplicates(self) -> None:
    if self._duplicates_checked:
      return
    self._duplicates_checked = True
    read = functools.partial(self._tensors.read, dtype=FLOATS["F32"])
    for entry in duplicates(self.table, self._tensors.shapes):
      first, second = read(entry.name), read(entry.of)
      if (first.shape, first.dtype) != (second.shape, second.dtype) or first.tobytes() != second.tobytes():
        raise CheckpointError(
          f"{self.directory}: config.json ties {entry.name} to {entry.of}, but the two tensors differ: set "
          "tie_word_embeddings to false, or remove the first"
        )


class ConvertedCheckpoint(Checkpoint):
  """A directory that `convert` wrote with Orbax: it holds the parameters themselves."""

  def __init__(self, directory: Path, config: Mapping[str, Any], schema: Schema):
    super().__init__(directory, config, schema)
    self._dtypes = orbax_files.check(directory, schema.shapes)
    self._held = held_in(self._dtypes, schema.shapes)

  @property
  def dtype(self) -> np.dtype:
    """The dtype of the weights."""
    kept = {*self.schema.shapes} - self.schema.float32
    return next(dtype for path, dtype in self._dtypes.items() if path in kept)

  def files(self) -> list[Path]:
    """All files of the Orbax checkpoint."""
    return orbax_files.files(self.directory)

  def rules(self) -> dict[str, str]:
    """None: parameters are stored as they are."""
    return {}

  @property
  def format(self) -> Format | None:
    """That of the source, whose settings config.json keeps where all that it held quantised still is."""
    return format_of(self.config, self.directory)

  @property
  def held(self) -> Held:
    """The parameters that are stored quantised."""
    return self._held

  def parameters(
    self, dtype: np.dtype, paths: Collection[str] | None = None, kept: Collection[str] = ()
  ) -> Iterator[tuple[str, np.ndarray | QuantizedWeight]]:
    """Every parameter once, or those of `paths`, the largest first, while little is held."""
    shapes = self.schema.shapes
    largest_first = sorted(shapes if paths is None else paths, key=lambda path: -math.prod(shapes[path]))
    chosen = {path: shapes[path] for path in largest_first}
    dtypes = {path: self.schema.dtype_of(path, dtype) for path in chosen}
    held = {path: one for path, one in self.held.items() if path in chosen}
    found = together(orbax_files.read(self.directory, *stored_arrays(chosen, dtypes, held)), held, dtypes)
    for path, array in found:
      plain = path in held and path not in kept
      yield path, widened(cast(QuantizedWeight, array), dtypes[path]) if plain else array
      # Otherwise it would be there until the next one has been read.
      del array


def _check_size(expected: Shapes, found: Shapes, directory: Path) -> None:
  """Raises CheckpointError where config.json describes a model many times larger than the files.

  Such a model cannot fit, and the names of its tensors alone might fill the memory, so none are made.
  """
  described, held = (sum(map(math.prod, shapes.values())) for shapes in (expected, found))
  if described > _TIMES_LARGER * max(held, 1):
    raise CheckpointError(
      f"{directory}: the weights do not fit config.json, which describes {described:.3g} parameters where the files "
      f"hold {held:.3g}: look at its numbers of layers and experts, or download config.json again"
    )


@contextlib.contextmanager
def open_checkpoint(directory: Path, config: Mapping[str, Any], schema: Schema) -> Iterator[Checkpoint]:
  """Opens the weights of `directory`, whose parsed config.json is `config`.

  Raises CheckpointError where they cannot be used: a missing, surplus or misshapen tensor, a damaged file, an
  unknown quantisation.
  """
  if orbax_files.is_converted(directory):
    yield ConvertedCheckpoint(directory, config, schema)
    return
  form = format_of(config, directory)
  with open_reader(directory) as reader:
    yield HubCheckpoint(directory, config, schema, reader, form)


def open_reader(directory: Path) -> Reader:
  """The weight files of a directory: safetensors, or else PyTorch's."""
  safetensors = (directory / SINGLE).is_file() or (directory / INDEX).is_file()
  pytorch = (directory / PyTorchReader.index).is_file() or weight_files(directory)
  return PyTorchReader(directory) if pytorch and not safetensors else SafetensorsReader(directory)


def has_weights(directory: Path) -> bool:
  """Whether there are files of weights, of whatever kind, beside config.json."""
  hub = (SINGLE, INDEX, PyTorchReader.index)
  return bool(
    orbax_files.is_converted(directory) or any((directory / name).is_file() for name in hub) or weight_files(directory)
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
