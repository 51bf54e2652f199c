"""Checks of a spec's fields at construction; errors name the field, its value and the remedy."""


def require(ok: bool, where: object, field: str, value: object, remedy: str) -> None:
  """Raises ValueError unless `ok`."""
  if not ok:
    raise ValueError(f"{type(where).__name__}.{field} is {value!r}: {remedy}")


def require_above_zero(where: object, *fields: str) -> None:
  """Raises ValueError unless every field is above zero."""
  for field in fields:
    value = getattr(where, field)
    require(value > 0, where, field, value, "expected a positive number")


def require_positive(where: object, *fields: str) -> None:
  """Raises ValueError unless every field is a whole number of at least 1."""
  for field in fields:
    value = getattr(where, field)
    whole = isinstance(value, int) and not isinstance(value, bool)
    require(whole and value >= 1, where, field, value, "expected a whole number of at least 1")
