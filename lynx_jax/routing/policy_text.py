"""Policies as text, for command lines and servers: `lynx:alpha=3,beta=2`.

policy := name [":" field "=" value {"," field "=" value}]
value  := integer | decimal | "none" | "(" policy ")"
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from pallas_kernels.lynx_route import POLICIES, RoutingPolicy


def parse_policy(text: str) -> RoutingPolicy:
  """Read a policy such as `topk`, `oea:k0=2` or `budget:max_active=16,policy=(lynx:alpha=3,beta=2)`.

  Raises:
    ValueError: names the part that cannot be read, the nearest name that exists, and all that exist.
  """
  name, colon, knobs_text = (part.strip() for part in text.partition(":"))
  if name not in POLICIES:
    raise ValueError(f"unknown policy {name!r} in {text!r}{_instead(name, sorted(POLICIES))}")
  fields = {field.name: field for field in dataclasses.fields(POLICIES[name])}
  knobs: dict[str, Any] = {}
  for assignment in _split_outside_brackets(knobs_text) if colon else ():
    key, equals, value = (part.strip() for part in assignment.partition("="))
    if key not in fields:
      raise ValueError(f"unknown field {key!r} of policy {name!r} in {text!r}{_instead(key, fields)}")
    if not equals or key in knobs:
      problem = "is given twice" if equals else "has no value"
      raise ValueError(f"field {key!r} {problem} in {text!r}; write {key}=VALUE once")
    knobs[key] = _parse_value(value, key, text)
  missing = [key for key, field in fields.items() if key not in knobs and field.default is dataclasses.MISSING]
  if missing:
    example = ",".join(f"{key}=VALUE" for key in fields)
    raise ValueError(f"policy {name!r} in {text!r} lacks {', '.join(missing)}; write {name}:{example}")
  return POLICIES[name](**knobs)


def format_policy(policy: RoutingPolicy) -> str:
  """The text that `parse_policy` reads as `policy`; ValueError for a class that has no name as text."""
  names = {cls: name for name, cls in POLICIES.items()}
  if type(policy) not in names:
    raise ValueError(f"{policy!r} has no text form; policies that have one: {', '.join(sorted(POLICIES))}")
  values = ((field.name, getattr(policy, field.name)) for field in dataclasses.fields(type(policy)))
  knobs = ",".join(f"{key}={_format_value(value)}" for key, value in values)
  return f"{names[type(policy)]}:{knobs}" if knobs else names[type(policy)]


def _parse_value(value: str, key: str, text: str) -> RoutingPolicy | float | int | None:
  if value.startswith("(") and value.endswith(")"):
    return parse_policy(value[1:-1])
  if value == "none":
    return None
  for number in (int, float):
    try:
      return number(value)
    except ValueError:
      continue
  raise ValueError(f"cannot read {value!r}, the value of {key!r} in {text!r}: give a number, none or (a policy)")


def _format_value(value: RoutingPolicy | float | int | None) -> str:
  if isinstance(value, RoutingPolicy):
    return f"({format_policy(value)})"
  return "none" if value is None else repr(value).removesuffix(".0")


def _split_outside_brackets(text: str) -> list[str]:
  """Split at the commas that no bracket encloses; ValueError where brackets do not pair up."""
  parts, depth = [""], 0
  for char in text:
    depth += {"(": 1, ")": -1}.get(char, 0)
    if depth < 0:
      break
    if char == "," and depth == 0:
      parts.append("")
    else:
      parts[-1] += char
  if depth != 0:
    raise ValueError(f"brackets do not pair up in {text!r}; write policy=(NAME:FIELD=VALUE)")
  return parts


def _instead(word: str, known: Iterable[str]) -> str:
  """The end of an error message: the nearest known word, if one is near, and all of them."""
  known = list(known)
  near = difflib.get_close_matches(word.lower(), known, n=1)
  guess = f"; did you mean {near[0]!r}?" if near else ";"
  return f"{guess} There are: {', '.join(known) if known else 'none'}"
