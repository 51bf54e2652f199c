"""Checks on the knobs of a policy: each gives the plain Python number back, or says what would do instead."""

import numbers
from typing import Any


def whole_number(owner: str, field: str, value: Any, *, least: int, remedy: str) -> int:
  """`value` as an int of at least `least`; bools, floats and text are a ValueError that ends in `remedy`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
    raise ValueError(f"{owner}.{field} = {value!r} is not a whole number of at least {least}; {remedy}")
  return int(value)


def positive_number(owner: str, field: str, value: Any, *, most: float, remedy: str) -> float:
  """`value` as a float with `0 < value <= most`; anything else is a ValueError that ends in `remedy`."""
  if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= most:
    raise ValueError(f"{owner}.{field} = {value!r} is not a number above 0 and at most {most:g}; {remedy}")
  return float(value)


def require_room(owner: str, field: str, size: int, experts_per_token: int) -> None:
  """ValueError when a set of `size` experts cannot hold the distinct experts that one token runs."""
  if size < experts_per_token:
    raise ValueError(
      f"{owner}.{field} = {size} is less than top_k = {experts_per_token}, and every token runs that many "
      f"distinct experts of the kept set; raise {field} to {experts_per_token} or more"
    )
