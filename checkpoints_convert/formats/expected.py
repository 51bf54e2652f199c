"""What files are to hold, said by the settings of quantised weights alone, before there are any files."""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from checkpoints_convert.formats.describing import format_of, quantization_settings
from checkpoints_convert.packed_rules import Held, Piece, packed_targets
from checkpoints_convert.rules import RuleTable, Shape, Shapes, names, only_rules

_EXPERT = re.compile(r"\.experts\.\d+\.")
_LEFT_OUT = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")


def expected_held(
  config: Mapping[str, Any], where: object, table: Callable[[], RuleTable], shapes: Shapes, linear: Shapes
) -> Held:
  """The parameters that files of a config.json hold quantised, by path, as shapes and dtypes.

  That is what settings say: a layer whose maker quantised it otherwise is not known. Experts of a layer count as alike.

  Args:
    config: the parsed config.json.
    where: what errors name.
    table: makes the rules between parameters and tensors; large models have many.
    shapes: of all parameters.
    linear: the parameters that formats quantise, matrices of linear layers and of experts.

  Raises:
    CheckpointError: the settings are not supported.
  """
  form = format_of(config, where)
  if form is None:
    return {}
  left_out = [*_left_out(quantization_settings(config, where) or {})]

  @functools.cache
  def expected(name: str, shape: Shape) -> Piece | None:
    return None if any(_matches(pattern, name) for pattern in left_out) else form.expected(name, shape)

  found: dict[str, Any] = {}
  for rule in only_rules(table()):
    if not {*names(rule.target)} <= linear.keys():
      continue
    tensors = rule.source_shapes(shapes).items()
    every = {name: expected(_EXPERT.sub(".experts.0.", name), shape) for name, shape in tensors}
    pieces = {name: piece for name, piece in every.items() if piece is not None}
    targets = packed_targets(rule, shapes, pieces)
    found |= {path: piece.weight for path, piece in targets.items() if not piece.swapped}
  return found


def _left_out(settings: Mapping[str, Any]) -> Iterator[str]:
  """The patterns of modules that settings leave as they are, under the names that formats have for them."""
  for key in _LEFT_OUT:
    listed = settings.get(key)
    yield from (pattern for pattern in listed if isinstance(pattern, str)) if isinstance(listed, list) else ()


def _matches(pattern: str, name: str) -> bool:
  """Whether the module of tensor `name` is the pattern's: a regular expression, a wildcard, or part of its name."""
  module = name.removesuffix(".weight")
  if pattern.startswith("re:"):
    return re.match(pattern.removeprefix("re:"), module) is not None
  if "*" in pattern:
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")
  return f".{pattern}." in f".{module}."
