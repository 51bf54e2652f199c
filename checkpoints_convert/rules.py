"""Rules, as data, that carry a checkpoint's tensors to a model's parameters, and back.

A layout says how named arrays lie inside one array. A name is the array itself; `Stack` and `Join` combine layouts;
`Fold` and `Transpose` reshape and transpose one; `Merge` and `Interleave` hold a named array whose entries lie in
another order. A `Rule` lays one array out twice: over parameters (its target) and over checkpoint tensors (its
source). Its inverse has the two swapped, so one function serves both directions.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from checkpoints_convert.errors import CheckpointError
from pallas_kernels.cpu.huge_pages import aligned_empty

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
Layout: TypeAlias = "str | Stack | Join | Fold | Transpose | Merge | Interleave"

_NAMES_SHOWN = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
  """Arrays of one shape, along a new first axis."""

  parts: tuple[Layout, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Join:
  """Arrays one after another along `axis`. `sizes` gives their lengths there; None means that all are equal."""

  parts: tuple[Layout, ...]
  axis: int = 0
  sizes: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Fold:
  """An array [count * n, ...] that is laid out as [count, n, ...]: the first axis split into equal blocks."""

  part: Layout
  count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Transpose:
  """An array whose last two axes are swapped."""

  part: Layout


@dataclasses.dataclass(frozen=True, slots=True)
class Merge:
  """Splits the first axis of a named array, which is `count` equal blocks one after another, into a new first axis."""

  part: str
  count: int


@dataclasses.dataclass(frozen=True, slots=True)
class Interleave:
  """De-interleaves: the named array holds a0 b0 a1 b1 ... along `axis`; laid out here are all of a, then all of b.

  Every `group` entries along the axis are reordered by themselves; None takes the whole axis as one group.
  """

  part: str
  axis: int
  group: int | None = None


class Part(NamedTuple):
  """A named array inside another: `view` writes through, in an order that reshapes to the named array's `shape`."""

  name: str
  view: np.ndarray
  shape: Shape

  def fill(self, named: np.ndarray) -> None:
    """Puts the named array in its place."""
    self.view[...] = named.reshape(self.view.shape)

  def copy_to(self, named: np.ndarray) -> None:
    """Takes the named array from its place; `named` is contiguous."""
    named.reshape(self.view.shape)[...] = self.view

  def whole(self) -> np.ndarray:
    """The named array; a view where its entries lie in order."""
    return self.view.reshape(self.shape)


def views(layout: Layout, array: np.ndarray) -> Iterator[Part]:
  """Each name of the layout, with its part of `array`."""
  match layout:
    case str():
      yield Part(layout, array, array.shape)
    case Stack(parts):
      if len(parts) != len(array):
        raise ValueError(f"a Stack of {len(parts)} arrays cannot be laid out in shape {array.shape}")
      for index, part in enumerate(parts):
        yield from views(part, array[index, ...])
    case Join(parts, axis, sizes):
      length = array.shape[axis]
      sizes = sizes or (length // len(parts),) * len(parts)
      if sum(sizes) != length or len(sizes) != len(parts):
        raise ValueError(f"a Join of {len(parts)} arrays, sizes {sizes}, does not fill axis {axis} of {array.shape}")
      for part, piece in zip(parts, np.split(array, np.cumsum(sizes)[:-1], axis=axis), strict=True):
        yield from views(part, piece)
    case Fold(part, count):
      if len(array) % count:
        raise ValueError(f"a Fold into {count} runs cannot be laid out in shape {array.shape}")
      yield from views(part, _split_axis(array, 0, (count, len(array) // count, *array.shape[1:])))
    case Transpose(part):
      yield from views(part, array.swapaxes(-1, -2))
    case Merge(part, count):
      if array.ndim < 2 or len(array) != count:
        raise ValueError(f"a Merge of {count} runs cannot be laid out in shape {array.shape}")
      yield Part(part, array, (count * array.shape[1], *array.shape[2:]))
    case Interleave(part, axis, group):
      axis %= array.ndim
      group = group or array.shape[axis]
      if group % 2 or array.shape[axis] % group:
        raise ValueError(f"an Interleave of groups of {group} does not fill axis {axis} of {array.shape}")
      halves = (*array.shape[:axis], array.shape[axis] // group, 2, group // 2, *array.shape[axis + 1 :])
      yield Part(part, _split_axis(array, axis, halves).swapaxes(axis + 1, axis + 2), array.shape)


def _split_axis(array: np.ndarray, axis: int, shape: Shape) -> np.ndarray:
  """`array` with one axis cut into several: always a view, unlike a reshape of what is not contiguous."""
  ahead, strides = array.strides[axis], list(array.strides)
  cut = shape[axis : axis + len(shape) - array.ndim + 1]
  strides[axis : axis + 1] = [ahead * int(np.prod(cut[index + 1 :])) for index in range(len(cut))]
  return np.lib.stride_tricks.as_strided(array, shape, strides, writeable=array.flags.writeable)


def names(layout: Layout) -> Iterator[str]:
  """The names of the layout, in order."""
  match layout:
    case str():
      yield layout
    case Stack(parts) | Join(parts):
      for part in parts:
        yield from names(part)
    case Fold(part) | Transpose(part):
      yield from names(part)
    case Merge(part) | Interleave(part):
      yield part


def shape(layout: Layout, shapes: Shapes) -> Shape:
  """Shape of the whole array, given those of its named parts."""
  match layout:
    case str():
      return shapes[layout]
    case Stack(parts):
      return (len(parts), *shape(parts[0], shapes))
    case Join(parts, axis):
      inner = [shape(part, shapes) for part in parts]
      return (*inner[0][:axis], sum(part[axis] for part in inner), *inner[0][axis + 1 :])
    case Fold(part):
      count, length, *rest = shape(part, shapes)
      return (count * length, *rest)
    case Transpose(part):
      *batch, rows, columns = shape(part, shapes)
      return (*batch, columns, rows)
    case Merge(part, count):
      rows, *rest = shapes[part]
      return (count, rows // count, *rest)
    case Interleave(part):
      return shapes[part]


def describe(layout: Layout) -> str:
  """The layout in words, short however many arrays it stacks."""
  match layout:
    case str():
      return layout
    case Stack(parts):
      return f"stack of {len(parts)} such as {describe(parts[0])}"
    case Join(parts, axis):
      return f"join along axis {axis} of ({', '.join(describe(part) for part in parts)})"
    case Fold(part, count):
      return f"in {count} runs, {describe(part)}"
    case Transpose(part):
      return f"transpose of {describe(part)}"
    case Merge(part, count):
      return f"{part} cut into {count}"
    case Interleave(part, axis):
      return f"{part}, whose halves alternate along axis {axis}"


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
  """One array, laid out over parameters (`target`) and over checkpoint tensors (`source`).

  One of the two is a plain name: a rename, a stack or join of tensors, or a split into parameters.
  """

  target: Layout
  source: Layout

  def __post_init__(self) -> None:
    if not (isinstance(self.target, str) or isinstance(self.source, str)):
      raise ValueError(f"Rule({self.target!r}, {self.source!r}): give one of the two as a plain name")

  @property
  def inverse(self) -> "Rule":
    """The rule from parameters back to checkpoint tensors."""
    return Rule(self.source, self.target)

  def source_shapes(self, target_shapes: Shapes) -> dict[str, Shape]:
    """Shape that each tensor of the source must have."""
    whole = np.broadcast_to(np.False_, shape(self.target, target_shapes))
    return {part.name: part.shape for part in views(self.source, whole)}


@dataclasses.dataclass(frozen=True, slots=True)
class Duplicate:
  """A tensor that a checkpoint may repeat under a second name; it must then be the same, bit for bit."""

  name: str
  of: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ignored:
  """Tensors, matched whole by a regular expression, that are no weights: `why` says what they are."""

  pattern: str
  why: str


Entry: TypeAlias = Rule | Duplicate | Ignored
RuleTable: TypeAlias = tuple[Entry, ...]


def only_rules(table: RuleTable) -> list[Rule]:
  """The entries that carry weights."""
  return [entry for entry in table if isinstance(entry, Rule)]


def source_shapes(table: RuleTable, target_shapes: Shapes) -> dict[str, Shape]:
  """Shape of every tensor that a checkpoint must have.

  Raises ValueError where the table itself is wrong: a tensor used twice, a parameter set twice or never.
  """
  expected: dict[str, Shape] = {}
  targets: set[str] = set()
  for rule in only_rules(table):
    for name, found in rule.source_shapes(target_shapes).items():
      if name in expected:
        raise ValueError(f"the rules use tensor {name!r} more than once")
      expected[name] = found
    for name in names(rule.target):
      if name in targets:
        raise ValueError(f"the rules set parameter {name!r} more than once")
      targets.add(name)
  if targets != set(target_shapes):
    raise ValueError(f"the rules never set {sorted(set(target_shapes) - targets)}")
  return expected


def ignored(table: RuleTable, found: Iterable[str]) -> list[str]:
  """The tensors among `found` that the table knows to be no weights."""
  patterns = [re.compile(entry.pattern) for entry in table if isinstance(entry, Ignored)]
  return [name for name in found if any(pattern.fullmatch(name) for pattern in patterns)]


def duplicates(table: RuleTable, found: Iterable[str]) -> list[Duplicate]:
  """The entries whose second name is among `found`."""
  present = set(found)
  return [entry for entry in table if isinstance(entry, Duplicate) and entry.name in present]


def check(table: RuleTable, target_shapes: Shapes, found: Shapes, where: object) -> None:
  """Raises CheckpointError, naming the tensors, unless those `found` are exactly those that the rules use."""
  expected = source_shapes(table, target_shapes)
  known = {entry.name for entry in duplicates(table, found)} | set(ignored(table, found))
  misshapen = [
    f"{name} (expected {list(expected[name])}, found {list(found[name])})"
    for name in expected
    if name in found and tuple(found[name]) != expected[name]
  ]
  problems = [
    _count("missing", [name for name in expected if name not in found]),
    _count("that nothing uses", [name for name in found if name not in expected and name not in known]),
    _count("of a wrong shape", misshapen),
  ]
  problems = [problem for problem in problems if problem]
  if problems:
    raise CheckpointError(f"{where}: the weights do not fit config.json: {'; '.join(problems)}")


def _count(what: str, items: Sequence[str]) -> str:
  if not items:
    return ""
  shown = ", ".join(items[:_NAMES_SHOWN]) + (", ..." if len(items) > _NAMES_SHOWN else "")
  return f"{len(items)} tensor{'s' if len(items) > 1 else ''} {what}: {shown}"


def carry(
  rule: Rule,
  target_shapes: Shapes,
  read: Callable[[str], np.ndarray],
  dtype: np.dtype,
  wanted: Collection[str] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
  """Each name of the rule's target with its array in `dtype`, filled from `read(name)` tensor by tensor.

  Where `wanted` is given, names that it does not hold are left out.
  """
  if isinstance(rule.target, str):
    array = aligned_empty(target_shapes[rule.target], dtype)
    for part in views(rule.source, array):
      part.fill(read(part.name))
    yield rule.target, array
    return
  assert isinstance(rule.source, str)
  for part in views(rule.target, read(rule.source)):
    if wanted is not None and part.name not in wanted:
      continue
    array = aligned_empty(part.shape, dtype)
    part.copy_to(array)
    yield part.name, array
