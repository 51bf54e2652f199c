"""When requests of a load arrive: all at once, at random times, or in bursts."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64

from pallas_kernels.checks import number_fields, refusal, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AllAtOnce:
  """Every request is there at the start."""

  def times(self, count: int, random: np.random.Generator) -> Float64[np.ndarray, "N"]:
    """Seconds after the start at which `count` requests arrive, rising."""
    return np.zeros((count,))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
  """Independent arrivals: the gaps between them are exponential.

  Attributes:
    rate: requests a second, in the mean.
  """

  rate: float

  def __post_init__(self) -> None:
    number_fields(self, "rate", above=0)

  def times(self, count: int, random: np.random.Generator) -> Float64[np.ndarray, "N"]:
    """Seconds after the start at which `count` requests arrive, rising."""
    return np.cumsum(random.exponential(1 / self.rate, size=count))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
  """Groups of requests at regular times, the first at the start.

  Attributes:
    size: requests of a group.
    every: seconds between groups.
  """

  size: int
  every: float

  def __post_init__(self) -> None:
    whole_fields(self, "size", least=1)
    number_fields(self, "every", above=0)

  def times(self, count: int, random: np.random.Generator) -> Float64[np.ndarray, "N"]:
    """Seconds after the start at which `count` requests arrive, rising."""
    return (np.arange(count) // self.size) * float(self.every)


Arrivals: TypeAlias = AllAtOnce | Poisson | Bursts

_KINDS: dict[str, Callable[..., Arrivals]] = {"all": AllAtOnce, "poisson": Poisson, "bursts": Bursts}


def parse_arrivals(text: str) -> Arrivals:
  """Arrivals from text: `all`, `poisson:rate=4` or `bursts:size=16,every=2`.

  Raises:
    ValueError: another text, or a number out of range.
  """
  name, _, knobs = text.partition(":")
  expected = "all, poisson:rate=4 or bursts:size=16,every=2, with numbers of your own"
  try:
    given = {key: _number(value) for key, value in (knob.split("=") for knob in knobs.split(",") if knob)}
    kind = _KINDS[name]
  except (ValueError, KeyError):
    raise refusal("arrivals", text, expected) from None
  try:
    return kind(**given)
  except TypeError:
    raise refusal("arrivals", text, expected) from None


def _number(text: str) -> int | float:
  """A number from text, whole where it can be."""
  value = float(text)
  return int(value) if value.is_integer() else value
