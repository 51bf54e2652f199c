"""Reads a `config.json` field by field, so that nothing in it is guessed or silently ignored."""

import dataclasses
from collections.abc import Mapping
from typing import Any

_MISSING = object()


@dataclasses.dataclass(frozen=True, slots=True)
class Fields:
  """The values of one `config.json`, read under the name of its family.

  Attributes:
    family: the family's name, for error messages.
    values: the parsed file.
  """

  family: str
  values: Mapping[str, Any]

  def whole(self, *spellings: str) -> int:
    """The whole number under the first of `spellings` that is set; ValueError, naming them, if none is."""
    for name in spellings:
      value = self.values.get(name)
      if isinstance(value, int) and not isinstance(value, bool):
        return value
      if value is not None:
        raise self.unsupported(name, value, "a whole number")
    names = " or ".join(repr(name) for name in spellings)
    raise ValueError(f"config.json of family {self.family!r} has no {names}: add it, with the checkpoint's value")

  def optional(self, name: str, default: Any) -> Any:
    """The value, `null` included, or `default` (the one of transformers' class) where the key is absent."""
    return self.values.get(name, default)

  def only(self, name: str, supported: tuple[Any, ...], default: Any = None) -> None:
    """Checks a setting that is not varied here: a ValueError unless its value is among `supported`."""
    value = self.values.get(name, default)
    if value not in supported:
      raise self.unsupported(name, value, " or ".join(repr(choice) for choice in supported))

  def unsupported(self, name: str, value: Any, supported: str) -> ValueError:
    """The error for a setting that would change the model's results if it were ignored."""
    return ValueError(
      f"config.json of family {self.family!r} sets {name} to {value!r}: not supported; supported: {supported}"
    )


def rope_theta(fields: Fields, default: float) -> float:
  """Base of the rotary frequencies, from `rope_parameters` (transformers 5) or `rope_theta` (older files).

  Raises ValueError for every rotary embedding but the default one: yarn, linear, part of a head, ...
  """
  found: float = fields.optional("rope_theta", None)
  # As in transformers, `rope_scaling` replaces `rope_parameters`, whose theta comes before the outer one.
  for name in ("rope_scaling", "rope_parameters"):
    nested = fields.optional(name, None)
    if not nested:
      continue
    kind = nested.get("rope_type", nested.get("type", "default"))
    if kind != "default" or any(isinstance(value, Mapping) for value in nested.values()):
      raise fields.unsupported(name, nested, "rope_type 'default', alike in every layer")
    _whole_head(fields, nested)
    found = nested.get("rope_theta") or found
    break
  _whole_head(fields, fields.values)
  return float(default if found is None else found)


def _whole_head(fields: Fields, values: Mapping[str, Any]) -> None:
  factor = values.get("partial_rotary_factor")
  if factor not in (None, 1, 1.0):
    raise fields.unsupported("partial_rotary_factor", factor, "1.0 (the whole head turns)")


def head_dim(fields: Fields) -> int:
  """Width of one attention head: as given, or the model width shared out over the heads."""
  given = fields.optional("head_dim", None)
  if given is not None:
    return given
  width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
  if width % heads:
    raise fields.unsupported(
      "hidden_size", width, f"a multiple of num_attention_heads {heads}, or an explicit head_dim"
    )
  return width // heads


def stop_ids(fields: Fields, default: int | None) -> tuple[int, ...]:
  """Ids that end a row: `eos_token_id` is an integer, a list of them, or null."""
  value = fields.optional("eos_token_id", default)
  if value is None:
    return ()
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def check_common(fields: Fields) -> None:
  """Refuses what none of the families here varies: the activation."""
  fields.only("hidden_act", ("silu", "swish"), "silu")
