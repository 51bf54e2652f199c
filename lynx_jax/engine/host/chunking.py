"""How many tokens of prompts a step computes, beside the rows that decode."""

import dataclasses

from lynx_jax.engine.host.load import StepTimes
from lynx_jax.engine.host.step_plan import Program, Programs
from pallas_kernels.checks import number_fields, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Chunking:
  """Chooses programs for chunks.

  Chunks are large, because even a small one reads nearly all experts, and rows that decode beside it cost little more.

  Attributes:
    target: seconds that a step with decode rows may take; None is no limit. The smallest mixed program always runs.
    experts: distinct experts that a step with a chunk reads, summed over layers, to predict its time.
    least_fill: share of a program that must be used for it to be taken in place of a smaller one. Use 0 where padding
      costs nothing, as in native code on CPUs.
  """

  target: float | None = None
  experts: int = 0
  least_fill: float = 0.5

  def __post_init__(self) -> None:
    if self.target is not None:
      number_fields(self, "target", above=0, remedy="None is no limit")
    whole_fields(self, "experts", least=0)
    number_fields(self, "least_fill", least=0, most=1)

  def program(self, programs: Programs, rows: int, wanted: int, times: StepTimes | None = None) -> Program:
    """The mixed program of a step with so many decode rows, when prompts have `wanted` tokens to compute."""
    smallest, *larger = programs.mixed
    chosen = smallest
    for size in larger:
      slow = rows and self.target is not None and times is not None and times.predict(self.experts, size) > self.target
      if slow or rows + wanted <= max(chosen, self.least_fill * size):
        break
      chosen = size
    return Program("mixed", chosen)


def smallest_program(programs: Programs, rows: int, chunk_tokens: int) -> Program:
  """The smallest program that holds so many decode rows and tokens of chunks."""
  if chunk_tokens:
    return Program("mixed", next(size for size in programs.mixed if size >= rows + chunk_tokens))
  return Program("decode", next(size for size in programs.decode if size >= rows))


def chunk_length(missing: int, room: int, canonical: int | None) -> int:
  """Tokens of a sequence's next chunk: as many as there is room for, or a whole canonical chunk, or none of it."""
  if canonical is None:
    return min(missing, room)
  whole = min(missing, canonical)
  return whole if whole <= room else 0
