"""Reads a `config.json` field by field, so that nothing in it is guessed, silently ignored or of the wrong type."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

# Far above any released model, of which the deepest has 126. Parameters are named for every layer before files are
# looked at, so a number that cannot be meant would take minutes.
MOST_LAYERS = 1000
# What a whole number may be at most: sizes of arrays are 32-bit numbers to compilers.
_MOST = 2**31 - 1
_SHOWN = 80


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
  """The values of one `config.json`, read under the name of its family.

  Every reader raises ValueError, with the field, its value and what would do, where a value is of another type. A
  default, where a reader takes one, stands for an absent key; it is that of transformers' configuration class.

  Attributes:
    family: the family's name, for error messages.
    values: the parsed file, or an object inside it.
    prefix: of the fields' names in messages, such as `rope_scaling.` for those of an object inside.
  """

  family: str
  values: Mapping[str, Any]
  prefix: str = ""

  def whole(self, *spellings: str, most: int = _MOST) -> int:
    """The whole number, from 0 to `most`, under the first of `spellings` that is set; an error if none is."""
    for name in spellings:
      if self.values.get(name) is not None:
        return self._whole(name, self.values[name], most)
    raise self.missing(*spellings)

  def whole_or(self, name: str, default: int) -> int:
    """The whole number, or `default`."""
    return self._whole(name, self.values.get(name, default), _MOST)

  def maybe_whole(self, name: str, default: int | None) -> int | None:
    """The whole number, None for `null`, or `default`."""
    value = self.values.get(name, default)
    return None if value is None else self._whole(name, value, _MOST)

  def number(self, name: str, default: float) -> float:
    """The number, or `default`."""
    return self._number(name, self.values.get(name, default))

  def maybe_number(self, name: str, default: float | None) -> float | None:
    """The number, None for `null`, or `default`."""
    value = self.values.get(name, default)
    return None if value is None else self._number(name, value)

  def positive(self, name: str, default: float) -> float:
    """The number above 0, or `default` where the key is absent or `null`."""
    value = self.maybe_number(name, default)
    if value is not None and value <= 0:
      raise self.unsupported(name, value, "a number above 0")
    return default if value is None else value

  def flag(self, name: str, default: bool) -> bool:
    """The setting, or `default`; `null` is false, as it is to transformers."""
    value = self.values.get(name, default)
    if value is not None and not isinstance(value, bool):
      raise self.unsupported(name, value, "true or false")
    return bool(value)

  def numbers(self, name: str) -> tuple[float, ...] | None:
    """The list of numbers; None where the key is absent or `null`."""
    value = self.values.get(name)
    if value is None:
      return None
    if not isinstance(value, list | tuple):
      raise self.unsupported(name, value, "a list of numbers")
    return tuple(self._number(name, one) for one in value)

  def word(self, *spellings: str) -> str | None:
    """The word under the first of `spellings` that is set; None where none is."""
    for name in spellings:
      value = self.values.get(name)
      if value is not None and not isinstance(value, str):
        raise self.unsupported(name, value, "a word")
      if value:
        return value
    return None

  def wholes(self, name: str) -> tuple[int, ...] | None:
    """The list of whole numbers, true and false being 1 and 0; None where the key is absent or `null`."""
    value = self.values.get(name)
    if value is None:
      return None
    if not isinstance(value, list | tuple) or not all(isinstance(one, int) for one in value):
      raise self.unsupported(name, value, "a list of whole numbers")
    return tuple(int(one) for one in value)

  def words(self, name: str) -> tuple[str, ...] | None:
    """The list of words; None where the key is absent or `null`."""
    value = self.values.get(name)
    if value is None:
      return None
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
      raise self.unsupported(name, value, "a list of words")
    return tuple(value)

  def inner(self, name: str) -> "Fields":
    """The fields of the object under `name`, which are none where the key is absent or `null`."""
    value = self.values.get(name)
    if value is None:
      value = MappingProxyType({})
    if not isinstance(value, Mapping):
      raise self.unsupported(name, value, "an object, such as {}")
    return Fields(self.family, value, f"{self.prefix}{name}.")

  def only(self, name: str, supported: tuple[Any, ...], default: Any = None) -> None:
    """Checks a setting that is not varied here: an error unless its value is among `supported`."""
    value = self.values.get(name, default)
    if value not in supported:
      raise self.unsupported(name, value, " or ".join(repr(choice) for choice in supported))

  def missing(self, *spellings: str) -> ValueError:
    """The error for a key that the family cannot do without."""
    names = " or ".join(repr(f"{self.prefix}{name}") for name in spellings)
    return ValueError(f"config.json of family {self.family!r} has no {names}: add it, with the checkpoint's value")

  def unsupported(self, name: str, value: Any, supported: str) -> ValueError:
    """The error for a value that is of a wrong type, or would change the model's results if it were ignored."""
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return ValueError(
      f"config.json of family {self.family!r} sets {self.prefix}{name} to {shown}: not supported; "
      f"supported: {supported}"
    )

  def _whole(self, name: str, value: Any, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
      raise self.unsupported(name, value, f"a whole number from 0 to {most}")
    return value

  def _number(self, name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
      raise self.unsupported(name, value, "a number")
    return float(value)


def layer_count(fields: Fields, *more: str) -> int:
  """How many layers the decoder has: `num_hidden_layers`, or what the family calls it in `more`."""
  return fields.whole(*more, "num_hidden_layers", most=MOST_LAYERS)


def head_dim(fields: Fields) -> int:
  """Width of one attention head: as given, or the model width shared out over the heads."""
  given = fields.maybe_whole("head_dim", None)
  if given is not None:
    return given
  width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
  if heads == 0 or width % heads:
    raise fields.unsupported(
      "hidden_size", width, f"a multiple of num_attention_heads {heads}, or an explicit head_dim"
    )
  return width // heads


def layer_types(fields: Fields, default: Sequence[str], supported: Collection[str]) -> tuple[str, ...]:
  """The kind of attention of every layer: as listed, or `default`."""
  given = fields.words("layer_types")
  kinds = tuple(default) if given is None else given
  layers = layer_count(fields)
  if len(kinds) != layers or not set(kinds) <= set(supported):
    raise fields.unsupported("layer_types", list(kinds), f"one of {', '.join(supported)} for each of {layers} layers")
  return kinds


def stop_ids(fields: Fields, default: int | None) -> tuple[int, ...]:
  """Ids that end a row: `eos_token_id` is a whole number, a list of them, or null."""
  value = fields.values.get("eos_token_id", default)
  ids = () if value is None else tuple(value) if isinstance(value, list | tuple) else (value,)
  if not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
    raise fields.unsupported("eos_token_id", value, "a token id, a list of ids, or null")
  return ids


def check_common(fields: Fields) -> None:
  """Refuses another activation than SwiGLU's, which no family here varies."""
  fields.only("hidden_act", ("silu", "swish"), "silu")
