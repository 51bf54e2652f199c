"""The block sizes of one kernel launch, and the question that they answer."""

import dataclasses
from typing import TypeAlias


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
  """Block sizes of one kernel launch.

  Attributes:
    columns: output columns per program.
    inner: length of a step along the summed axis.
    warps: warps per program.
    stages: loads in flight.
  """

  columns: int
  inner: int
  warps: int
  stages: int


Question: TypeAlias = tuple[str, tuple[int, ...]]
"""A kernel's name, and the sizes that its block sizes depend on."""
