"""How long steps take, and how many experts they may read so that they take no longer than they should."""

import dataclasses
import math

from pallas_kernels.checks import number_fields, whole_fields


class StepTimes:
  """Seconds of a step as a + b * experts + c * tokens, fitted to the steps that ran.

  `experts` are the distinct experts read, summed over layers: reading them is most of a decode step (arXiv 2511.02237
  finds R^2 above 0.99). Least squares whose old steps fade, in information form: what recent steps do not tell apart,
  such as a and c while all steps have one size, stays at the estimate before them.

  Attributes:
    largest: tokens of the largest step so far.
  """

  def __init__(self, *, experts: int, tokens: int, fading: float = 0.98):
    """`experts` and `tokens` are the most of a step: the scales of the fit. `fading` weighs a step against the next."""
    self._scales = (1.0, 1.0 / max(experts, 1), 1.0 / max(tokens, 1))
    self._fading = fading
    self._moments = [[0.0] * 3 for _ in range(3)]
    self._products = [0.0] * 3
    self._estimate = [0.0] * 3
    self.largest = 0

  def observe(self, experts: int, tokens: int, seconds: float) -> None:
    """Adds one step."""
    inputs = self._inputs(experts, tokens)
    for row, left in zip(self._moments, inputs, strict=True):
      for index, right in enumerate(inputs):
        row[index] = self._fading * row[index] + left * right
    self._products = [self._fading * old + one * seconds for old, one in zip(self._products, inputs, strict=True)]
    self.largest = max(self.largest, tokens)
    self._solve()

  def predict(self, experts: int, tokens: int) -> float:
    """Seconds of a step; 0 before the first was observed."""
    return sum(one * each for one, each in zip(self._estimate, self._inputs(experts, tokens), strict=True))

  def most_tokens(self, experts: int, seconds: float) -> float:
    """Tokens of a step of so many experts that takes so long; infinite while tokens are not seen to take time."""
    by_token = self._estimate[2] * self._scales[2]
    return (seconds - self.predict(experts, 0)) / by_token if by_token > 0 else math.inf

  @property
  def seconds_per_expert(self) -> float:
    """The time that reading one more expert takes."""
    return self._estimate[1] * self._scales[1]

  def _inputs(self, experts: int, tokens: int) -> tuple[float, float, float]:
    return self._scales[0], experts * self._scales[1], tokens * self._scales[2]

  def _solve(self, ridge: float = 1e-3) -> None:
    """Solves the least squares; `ridge` is the weight, in steps, that holds the solution to the estimate before."""
    rows = [
      [value + ridge * (index == column) for column, value in enumerate(row)] + [product + ridge * old]
      for index, (row, product, old) in enumerate(zip(self._moments, self._products, self._estimate, strict=True))
    ]
    # The matrix is positive definite, so elimination needs no exchange of rows.
    for pivot in range(3):
      for below in range(pivot + 1, 3):
        factor = rows[below][pivot] / rows[pivot][pivot]
        rows[below] = [low - factor * high for low, high in zip(rows[below], rows[pivot], strict=True)]
    for pivot in (2, 1, 0):
      known = sum(rows[pivot][index] * self._estimate[index] for index in range(pivot + 1, 3))
      self._estimate[pivot] = (rows[pivot][3] - known) / rows[pivot][pivot]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule:
  """What a controller of the experts' budget promises.

  Attributes:
    target: seconds of a decode step.
    layers: that have experts.
    experts: of a layer.
    top_k: experts of a token: the least limit.
    least_retained: share of its experts' worth that an adaptive row keeps in the mean. Where rows keep less, the limit
      rises, whatever the time.
    step: the limit moves by at most this share in a step.
    tolerance: share of the target by which the time may miss it before the limit moves.
  """

  target: float
  layers: int
  experts: int
  top_k: int
  least_retained: float = 0.8
  step: float = 0.1
  tolerance: float = 0.03

  def __post_init__(self) -> None:
    number_fields(self, "target", above=0)
    whole_fields(self, "layers", "experts", least=1)
    whole_fields(self, "top_k", least=1, most=self.experts)
    number_fields(self, "least_retained", least=0, most=1)
    number_fields(self, "step", "tolerance", above=0, most=0.5)


class ExpertBudget:
  """Holds the time of decode steps at a target by the limit of experts that adaptive rows may read in a layer.

  The limit goes to the value that the fit of step times asks for, a little in each step. It stays while the mean time
  of recent steps is near the target: noise does not move it.
  """

  def __init__(self, rule: BudgetRule, times: StepTimes, *, memory: float = 0.9):
    """`memory` weighs the mean time so far against the newest step's."""
    self._rule = rule
    self._times = times
    self._memory = memory
    self._limit = float(rule.experts)
    self._mean: float | None = None

  @property
  def limit(self) -> int | None:
    """The most experts of a layer; None while there is nothing to limit."""
    return None if self._limit >= self._rule.experts else int(self._limit)

  def observe(self, experts: int, rows: int, seconds: float, retained: float = 1.0) -> None:
    """Moves the limit after a step of `rows` decode rows that read so many `experts` in all layers.

    The step times must have observed the step. Steps with chunks are not given: their time is another.
    """
    rule = self._rule
    self._mean = seconds if self._mean is None else self._memory * self._mean + (1 - self._memory) * seconds
    if retained < rule.least_retained:
      self._move(rule.experts)
    elif abs(self._mean - rule.target) > rule.tolerance * rule.target and self._times.seconds_per_expert > 0:
      # From what the rows read now: a limit that they do not reach has no effect.
      missed = (rule.target - self._times.predict(experts, rows)) / self._times.seconds_per_expert / rule.layers
      wanted = experts / rule.layers + missed
      slow = self._mean > rule.target
      self._move(min(wanted, self._limit) if slow else max(wanted, self._limit))

  def _move(self, wanted: float) -> None:
    rule = self._rule
    stepped = min(max(wanted, self._limit * (1 - rule.step)), self._limit * (1 + rule.step))
    self._limit = min(max(stepped, float(rule.top_k)), float(rule.experts))
