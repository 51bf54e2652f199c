"""Checks of settings, with one grammar of errors: `OWNER.field is VALUE: expected WHAT; remedy`.

Numbers may come from Python, NumPy or JAX. A check returns the plain Python number, so that settings hash and compare
by value whoever made them.
"""

import numbers
import operator
import sys
from typing import Any

import numpy as np

_LONGEST_VALUE = 200
"""Characters of a refused value that a message shows."""


def refusal(where: str, value: object, expected: str, remedy: str | None = None) -> ValueError:
  """The error that says what `where` is, what was expected, and what to do about it."""
  return ValueError(f"{where} is {shown(value)}: expected {expected}{f'; {remedy}' if remedy else ''}")


def require(ok: bool, where: str, value: object, expected: str, remedy: str | None = None) -> None:
  """Raises the `refusal` unless `ok`."""
  if not ok:
    raise refusal(where, value, expected, remedy)


def whole_number(
  where: str, value: Any, *, least: int | None = None, most: int | None = None, remedy: str | None = None
) -> int:
  """`value` as an int between `least` and `most`, both included.

  A float that is whole, such as 2.0, counts as a whole number; a bool does not.

  Raises:
    ValueError: `value` is anything else.
  """
  plain = plain_number(value)
  if isinstance(plain, float) and plain.is_integer():
    plain = int(plain)
  if not isinstance(plain, int) or not _within(plain, least, most):
    raise refusal(where, value, f"a whole number{_range(least, most)}", remedy)
  return plain


def number(
  where: str,
  value: Any,
  *,
  above: float | None = None,
  least: float | None = None,
  most: float | None = None,
  remedy: str | None = None,
) -> float:
  """`value` as a finite float larger than `above` and between `least` and `most`, both included.

  Raises:
    ValueError: `value` is anything else; a bool is no number here.
  """
  plain = plain_number(value)
  inside = plain is not None and abs(plain) <= sys.float_info.max and _within(plain, least, most)
  if plain is None or not inside or (above is not None and plain <= above):
    raise refusal(where, value, f"a number{_range(least, most, above)}", remedy)
  return float(plain)


def whole_fields(
  owner: object, *fields: str, least: int | None = None, most: int | None = None, remedy: str | None = None
) -> None:
  """Checks fields of a frozen dataclass, in its `__post_init__`, and stores them as ints."""
  for field in fields:
    value = whole_number(field_of(owner, field), getattr(owner, field), least=least, most=most, remedy=remedy)
    object.__setattr__(owner, field, value)


def number_fields(
  owner: object,
  *fields: str,
  above: float | None = None,
  least: float | None = None,
  most: float | None = None,
  remedy: str | None = None,
) -> None:
  """Checks fields of a frozen dataclass, in its `__post_init__`, and stores them as floats."""
  for field in fields:
    name, value = field_of(owner, field), getattr(owner, field)
    value = number(name, value, above=above, least=least, most=most, remedy=remedy)
    object.__setattr__(owner, field, value)


def field_of(owner: object, field: str) -> str:
  """The name of a field in messages, such as `Sampling.top_k`."""
  return f"{type(owner).__name__}.{field}"


def shown(value: object) -> str:
  """`value` as a message shows it: its repr, cut where it is long."""
  text = repr(value)
  return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def plain_number(value: Any) -> int | float | None:
  """A number of Python, or a scalar of NumPy or JAX, as an int or a float; None for all else, bools included."""
  if isinstance(value, np.generic) or (hasattr(value, "dtype") and getattr(value, "shape", None) == ()):
    value = value.item()
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return None
  return operator.index(value) if isinstance(value, numbers.Integral) else float(value)


def _within(value: float, least: float | None, most: float | None) -> bool:
  return (least is None or value >= least) and (most is None or value <= most)


def _range(least: float | None, most: float | None, above: float | None = None) -> str:
  """The end of "expected a number"."""
  if above is not None:
    return f" above {above:g}" + ("" if most is None else f" and at most {_plain(most)}")
  if least is not None and most is not None:
    return f" from {_plain(least)} to {_plain(most)}"
  if least is not None:
    return f" of at least {_plain(least)}"
  return "" if most is None else f" of at most {_plain(most)}"


def _plain(bound: float) -> str:
  return str(bound) if isinstance(bound, int) else f"{bound:g}"
