"""Policies as text, for command lines and servers: `lynx:alpha=3,beta=2`.

policy := name [":" field "=" value {"," field "=" value}]
value  := integer | decimal | "none" | "(" policy ")"
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any

from pallas_kernels.checks import refusal, require, shown
from pallas_kernels.lynx_route.policy import POLICIES, RoutingPolicy
from pallas_kernels.lynx_route.topk import TopK

# Policies inside policies. Each level costs a pass over the text and a level of Python's stack.
_DEEPEST = 8


def as_policy(policy: RoutingPolicy | str | None) -> RoutingPolicy:
  """A policy, from itself, from its text, or from None, which is the model's own routing.

  Raises:
    ValueError: it is something else, or a text that `parse_policy` cannot read.
  """
  if policy is None:
    return TopK()
  if isinstance(policy, str):
    return parse_policy(policy)
  if isinstance(policy, type) and issubclass(policy, RoutingPolicy):
    name = policy.__name__
    raise ValueError(f"policy is the class {name}: expected an instance; give one such as {name}(...)")
  expected = "a policy, its text, or None"
  require(isinstance(policy, RoutingPolicy), "policy", policy, expected, "such as Auto() or 'lynx:alpha=3,beta=2'")
  try:
    hash(policy)
  except TypeError:
    expected = "a frozen dataclass, because jit takes it as a static argument"
    raise refusal("policy", policy, expected, "decorate its class with dataclass(frozen=True)") from None
  return policy


def parse_policy(text: str) -> RoutingPolicy:
  """Read a policy such as `topk`, `oea:k0=2` or `budget:max_active=16,policy=(lynx:alpha=3,beta=2)`.

  Raises:
    ValueError: names the part that cannot be read, the nearest name that exists, and all that exist.
  """
  require(isinstance(text, str), "text of a policy", text, "text", "such as 'auto' or 'lynx:alpha=3,beta=2'")
  _check_brackets(text)
  return _parse(text)


def _parse(text: str) -> RoutingPolicy:
  name, colon, knobs_text = (part.strip() for part in text.partition(":"))
  if name not in POLICIES:
    raise ValueError(f"unknown policy {shown(name)} in {shown(text)}{_instead(name, sorted(POLICIES))}")
  fields = {field.name: field for field in dataclasses.fields(POLICIES[name])}
  knobs: dict[str, Any] = {}
  for assignment in _split_outside_brackets(knobs_text) if colon else ():
    key, equals, value = (part.strip() for part in assignment.partition("="))
    if key not in fields:
      raise ValueError(f"unknown field {shown(key)} of policy {name!r} in {shown(text)}{_instead(key, fields)}")
    if not equals or key in knobs:
      problem = "is given twice" if equals else "has no value"
      raise ValueError(f"field {shown(key)} {problem} in {shown(text)}; write {key}=VALUE once")
    knobs[key] = _parse_value(value, key, text)
  missing = [key for key, field in fields.items() if key not in knobs and field.default is dataclasses.MISSING]
  if missing:
    example = ",".join(f"{key}=VALUE" for key in fields)
    raise ValueError(f"policy {name!r} in {shown(text)} lacks {', '.join(missing)}; write {name}:{example}")
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
    return _parse(value[1:-1])
  if value == "none":
    return None
  for number in (int, float):
    try:
      return number(value)
    except ValueError:
      continue
  raise ValueError(
    f"cannot read {shown(value)}, the value of {shown(key)} in {shown(text)}: give a number, none or (a policy)"
  )


def _format_value(value: RoutingPolicy | float | int | None) -> str:
  if isinstance(value, RoutingPolicy):
    return f"({format_policy(value)})"
  return "none" if value is None else repr(value).removesuffix(".0")


def _split_outside_brackets(text: str) -> list[str]:
  """Split at the commas that no bracket encloses."""
  parts, depth = [""], 0
  for char in text:
    depth += {"(": 1, ")": -1}.get(char, 0)
    if char == "," and depth == 0:
      parts.append("")
    else:
      parts[-1] += char
  return parts


def _check_brackets(text: str) -> None:
  """ValueError where brackets do not pair up, or policies are nested too deep."""
  depth = 0
  for char in text:
    depth += {"(": 1, ")": -1}.get(char, 0)
    if depth < 0:
      break
    if depth > _DEEPEST:
      raise ValueError(f"policies are nested more than {_DEEPEST} deep in {shown(text)}; write fewer, one is enough")
  if depth != 0:
    raise ValueError(f"brackets do not pair up in {shown(text)}; write policy=(NAME:FIELD=VALUE)")


def _instead(word: str, known: Iterable[str]) -> str:
  """The end of an error message: the nearest known word, if one is near, and all of them."""
  known = list(known)
  near = difflib.get_close_matches(word.lower(), known, n=1)
  guess = f"; did you mean {near[0]!r}?" if near else ";"
  return f"{guess} There are: {', '.join(known) if known else 'none'}"
