"""Which implementation of an op runs, and why not the others."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax


@dataclasses.dataclass(frozen=True, slots=True)
class Implementation:
  """One way to compute an op.

  Attributes:
    name: what a caller asks for it by.
    run: the function, of the op's arguments.
    about: a few words for `explain`.
    objection: given the platform, why it cannot run there, or None.
  """

  name: str
  run: Callable[..., Any]
  about: str
  objection: Callable[[str], str | None] = lambda platform: None


@dataclasses.dataclass(frozen=True, slots=True)
class Op:
  """An op and its implementations, the best first."""

  name: str
  implementations: tuple[Implementation, ...]

  def choose(self, name: str | None = None) -> Implementation:
    """The implementation of that name, or the best that can run on the default platform.

    Raises:
      ValueError: no implementation has that name.
      NotImplementedError: the named one cannot run here.
    """
    platform = jax.default_backend()
    for candidate in self.implementations:
      objection = candidate.objection(platform)
      if name is None and objection is None:
        return candidate
      if candidate.name == name:
        if objection is not None:
          raise NotImplementedError(f"{self.name}: implementation {name!r} cannot run: {objection}")
        return candidate
    names = ", ".join(repr(candidate.name) for candidate in self.implementations)
    raise ValueError(f"{self.name} has no implementation {name!r}: choose one of {names}, or None for the best")

  def explain(self) -> list[str]:
    """One line an implementation: what runs, what could, what cannot and why."""
    platform, best, lines = jax.default_backend(), self.choose(), []
    for candidate in self.implementations:
      objection = candidate.objection(platform)
      verdict = "runs" if candidate is best else "can be asked for" if objection is None else f"cannot run: {objection}"
      lines.append(f"{self.name}  {candidate.name}: {verdict} ({candidate.about})")
    return lines
