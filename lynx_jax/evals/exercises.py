"""Exercises with one right answer: the decode loop generates an answer, which is compared as text."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from lynx_jax.evals.bootstrap import Interval, ratio
from lynx_jax.generation import generate
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
  """A prompt and its one right answer, which fills the rest of the line. `source` is the kind of task."""

  source: str
  prompt: str
  answer: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
  """The share of one source's exercises that were solved.

  Attributes:
    source: the kind of task.
    exercises: how many.
    solved: share whose first line is the answer, to the letter.
    experts: distinct experts a layer and step, mean over batches.
  """

  source: str
  exercises: int
  solved: Interval
  experts: float


def solve_exercises(
  params: Params,
  exercises: Sequence[Exercise],
  policy: RoutingPolicy,
  *,
  batch: int,
  seed: int = 0,
  progress: Callable[[int], None] = lambda done: None,
) -> list[Solved]:
  """Generates an answer to each exercise, `batch` rows at a time drawn from all sources, with intervals.

  The rows of a batch stay together, whatever the policy: all policies are compared on the same batches.

  Raises:
    ValueError: the model has no tokenizer.
  """
  if params.tokenizer is None:
    raise ValueError("this checkpoint has no tokenizer: exercises are text")
  order = np.random.default_rng(seed).permutation(len(exercises))
  longest = max(len(params.tokenizer.encode(" " + exercise.answer)) for exercise in exercises) + 2
  right, experts = np.zeros(len(exercises)), np.zeros(len(exercises))
  for at in range(0, len(order), batch):
    rows: list[int] = order[at : at + batch].tolist()
    # The last batch is filled up, so that its programs are those of the others.
    filled = [rows[index % len(rows)] for index in range(batch)]
    found = generate(
      params, [exercises[row].prompt for row in filled],
      max_new_tokens=longest, policy=policy, stop=("\n",), stats=True,
    )  # fmt: skip
    for row, completion in zip(rows, found[: len(rows)], strict=True):
      right[row] = completion.text.split("\n")[0].strip() == exercises[row].answer
      experts[row] = np.mean(completion.stats.active_experts) if completion.stats else np.nan
    progress(at + len(rows))
  sources = np.array([exercise.source for exercise in exercises])
  return [
    Solved(
      source=source,
      exercises=int((of := sources == source).sum()),
      solved=ratio(right[of], np.ones(int(of.sum()))),
      experts=float(np.nanmean(experts[of])),
    )
    for source in dict.fromkeys(sources.tolist())
  ]
