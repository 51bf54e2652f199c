"""How a batch of rows agrees on the experts that it may use, as frozen, hashable data."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class OwnExperts:
  """Every row runs its own best experts: `run` of them, or where that is None as many as the model does."""

  run: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class FirstChoices:
  """The batch keeps every row's `k0` best experts (OEA, arXiv 2511.02237)."""

  k0: int


@dataclasses.dataclass(frozen=True, slots=True)
class AffinityBins:
  """The batch keeps every row's best experts by bin, then by popularity (Lynx, arXiv 2411.08982).

  Attributes:
    alpha: bins a nat below the row's best expert.
    beta: the lowest bin is -beta; None has no lowest.
  """

  alpha: float
  beta: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class MassFloor:
  """The batch keeps the fewest experts, by greedy cover, that leave each row the share `tau` of its own mass."""

  tau: float


@dataclasses.dataclass(frozen=True, slots=True)
class WorthReading:
  """The batch keeps experts, greedily, that save at least `share` of what its rows' own experts save on average.

  What an expert saves is the loss that leaving it out adds: of a row with weights w that retains the mass r of its own
  experts, the squared weights that it loses plus (1 - r)**2.
  """

  share: float


@dataclasses.dataclass(frozen=True, slots=True)
class Limited:
  """Another rule's experts, of which the batch keeps at most `most`: by greedy cover, those that retain most mass."""

  rule: "OwnExperts | FirstChoices | AffinityBins | MassFloor | WorthReading"
  most: int

  def __post_init__(self) -> None:
    if isinstance(self.rule, OwnExperts) and self.rule.run is not None:
      raise ValueError(f"Limited.rule = {self.rule}: rows that run fewer experts than the model's are not limited")


Rule = OwnExperts | FirstChoices | AffinityBins | MassFloor | WorthReading | Limited

VOTE_BINS = 32
"""Bins from -31 down cast the same vote."""


def experts_run(rule: Rule, top_k: int) -> int:
  """Experts that a row runs where the model's own rule runs `top_k`."""
  return min(rule.run, top_k) if isinstance(rule, OwnExperts) and rule.run is not None else top_k
