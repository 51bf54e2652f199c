"""How many tokens of prompts a step computes, beside the rows that decode."""

import bisect
import dataclasses

from lynx_jax.engine.host.load import StepTimes
from lynx_jax.engine.host.step_plan import Program, Programs
from pallas_kernels.checks import number_fields, whole_fields

LEAST_CHUNK = 32
"""Tokens of prompts that a step reads beside decode rows at least, whatever the target: fewer read nearly all experts
as well."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
  """Chooses how many tokens steps with chunks compute.

  Chunks are large, because even a small one reads nearly all experts, and rows that decode beside it cost little more.

  Attributes:
    target: seconds that a step with decode rows may take; None is no limit. Where padding costs something, the smallest
      mixed program always runs, and elsewhere a chunk of `LEAST_CHUNK` tokens.
    experts: distinct experts that a step with a chunk reads, summed over layers, to predict its time.
    least_fill: share of a program that must be used for it to be taken in place of a smaller one. Use 0 where padding
      costs nothing, as in native code on CPUs: steps may then be of any size.
  """

  target: float | None = None
  experts: int = 0
  least_fill: float = 0.5

  def __post_init__(self) -> None:
    if self.target is not None:
      number_fields(self, "target", above=0, remedy="None is no limit")
    whole_fields(self, "experts", least=0)
    number_fields(self, "least_fill", least=0, most=1)

  @property
  def padding_costs(self) -> bool:
    """Whether a step takes the time of its whole program."""
    return self.least_fill > 0

  def size(self, programs: Programs, rows: int, wanted: int, times: StepTimes | None = None) -> int:
    """Tokens of a step, so many decode rows included, when prompts have `wanted` tokens to compute."""
    size, *larger = programs.mixed
    for one in larger:
      if rows + wanted <= max(size, self.least_fill * one):
        break
      size = one
    if not rows or self.target is None or times is None:
      return size
    # The fit knows nothing of steps that are much larger than any before.
    most = min(times.most_tokens(self.experts, self.target), 2 * times.largest)
    if self.padding_costs:
      return max((one for one in programs.mixed if one <= min(size, most)), default=programs.mixed[0])
    return min(size, max(rows + LEAST_CHUNK, int(most)))


def smallest_program(programs: Programs, rows: int, chunk_tokens: int) -> Program:
  """The smallest program that holds so many decode rows and tokens of chunks."""
  kind, sizes = ("mixed", programs.mixed) if chunk_tokens else ("decode", programs.decode)
  return Program(kind, sizes[bisect.bisect_left(sizes, rows + chunk_tokens)])


def chunk_length(missing: int, room: int, canonical: int | None) -> int:
  """Tokens of a sequence's next chunk: as many as there is room for, or a whole canonical chunk, or none of it."""
  if canonical is None:
    return min(missing, room)
  whole = min(missing, canonical)
  return whole if whole <= room else 0
