"""Reads a `config.json` field by field, so that nothing in it is guessed or silently ignored."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
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


def layer_types(fields: Fields, default: Sequence[str], supported: Collection[str]) -> tuple[str, ...]:
  """The kind of attention of every layer: as listed, or `default`."""
  given = fields.optional("layer_types", None)
  kinds = tuple(default if given is None else given)
  layers = fields.whole("num_hidden_layers")
  if len(kinds) != layers or not set(kinds) <= set(supported):
    raise fields.unsupported("layer_types", list(kinds), f"one of {', '.join(supported)} for each of {layers} layers")
  return kinds


def stop_ids(fields: Fields, default: int | None) -> tuple[int, ...]:
  """Ids that end a row: `eos_token_id` is an integer, a list of them, or null."""
  value = fields.optional("eos_token_id", default)
  if value is None:
    return ()
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def check_common(fields: Fields) -> None:
  """Refuses what none of the families here varies: the activation."""
  fields.only("hidden_act", ("silu", "swish"), "silu")
