"""Confidence intervals by resampling batches: rows of a batch share experts, so only batches are independent."""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

_RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
  """An estimate with the bounds of its central 95 %."""

  value: float
  low: float
  high: float

  def __str__(self) -> str:
    return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def resamples(size: int, seed: int = 0) -> Int[np.ndarray, "R n"]:
  """Draws `size` indices with replacement, once for each resample."""
  return np.random.default_rng(seed).integers(size, size=(_RESAMPLES, size))


def interval(value: float, resampled: Float[np.ndarray, "R"]) -> Interval:
  """The percentile interval of an estimate (Efron 1979)."""
  low, high = np.percentile(resampled, [2.5, 97.5])
  return Interval(value=value, low=float(low), high=float(high))


def ratio(above: Float[np.ndarray, "n"], below: Float[np.ndarray, "n"], *, seed: int = 0) -> Interval:
  """The sum of `above` divided by the sum of `below`; both have one number for each batch."""
  above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
  drawn = resamples(len(above), seed)
  return interval(float(above.sum() / below.sum()), above[drawn].sum(axis=1) / below[drawn].sum(axis=1))


def paired_ratio(one: Float[np.ndarray, "n"], other: Float[np.ndarray, "n"], *, seed: int = 0) -> Interval:
  """The relative increase of the sum of `one` over the sum of `other`, on the same batches."""
  found = ratio(one, other, seed=seed)
  return Interval(value=found.value - 1, low=found.low - 1, high=found.high - 1)
