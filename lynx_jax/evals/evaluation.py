"""What `lynx-jax eval` does: every policy on every batch size and mix, as tables and as JSON."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lynx_jax.evals.bootstrap import Interval
from lynx_jax.evals.choices import answer_questions
from lynx_jax.evals.compare import PolicyCost, measure_policies, summarize
from lynx_jax.evals.exercises import solve_exercises
from lynx_jax.evals.mixes import MIXES, BatchMaker, cut
from lynx_jax.evals.text_files import read_exercises, read_questions, read_texts, token_streams
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, TopK, format_policy
from pallas_kernels.checks import whole_number


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
  """What to evaluate.

  Attributes:
    texts: files whose next tokens are judged.
    choices: files of questions with choices.
    exercises: files of exercises.
    batches: numbers of rows that decode together.
    mixes: which rows share a batch, of `MIXES` (texts only).
    windows: batches a mix and batch size (texts only).
    length: tokens a row (texts only).
    prompt_length: of these, tokens that are prefilled and not judged.
    limit: questions or exercises a source; None takes all.
    seed: of the rows that share a batch.
  """

  texts: tuple[Path, ...] = ()
  choices: tuple[Path, ...] = ()
  exercises: tuple[Path, ...] = ()
  batches: tuple[int, ...] = (16,)
  mixes: tuple[str, ...] = ("mixed",)
  windows: int = 8
  length: int = 128
  prompt_length: int = 0
  limit: int | None = None
  seed: int = 0

  def __post_init__(self) -> None:
    if not self.texts + self.choices + self.exercises:
      raise ValueError("nothing to evaluate: give --text, --choices or --exercises a file")
    if unknown := set(self.mixes) - set(MIXES):
      raise ValueError(f"unknown mix {', '.join(sorted(unknown))}: choose from {', '.join(MIXES)}")
    for name in ("windows", "length"):
      whole_number(f"--{name}", getattr(self, name), least=1)
    whole_number("--prompt-length", self.prompt_length, least=0)
    whole_number("--seed", self.seed, least=0)
    if self.limit is not None:
      whole_number("--limit", self.limit, least=1)


def evaluate(
  params: Params,
  evaluation: Evaluation,
  policies: Sequence[RoutingPolicy],
  *,
  progress: Callable[[str], None] = lambda message: None,
) -> dict[str, list[dict[str, Any]]]:
  """Rows of results, by kind: "texts", "choices" and "exercises"; plain values, intervals as value, low, high."""
  found: dict[str, list[dict[str, Any]]] = {}
  if evaluation.texts:
    found["texts"] = _texts(params, evaluation, policies, progress)
  if evaluation.choices:
    questions = read_questions(evaluation.choices, evaluation.limit)
    found["choices"] = []
    for batch in evaluation.batches:
      results = answer_questions(
        params, questions, policies, batch=batch, own=TopK(),
        progress=lambda done, batch=batch: progress(f"choices, batch {batch}: {done}"),
      )  # fmt: skip
      found["choices"] += [
        {"batch": batch, "policy": format_policy(policy), **dataclasses.asdict(accuracy)}
        for policy, accuracies in zip(policies, results, strict=True)
        for accuracy in accuracies
      ]
  if evaluation.exercises:
    exercises = read_exercises(evaluation.exercises, evaluation.limit)
    found["exercises"] = [
      {"batch": batch, "policy": format_policy(policy), **dataclasses.asdict(solved)}
      for batch in evaluation.batches
      for policy in policies
      for solved in solve_exercises(
        params, exercises, policy, batch=batch, seed=evaluation.seed,
        progress=lambda done, batch=batch: progress(f"exercises, batch {batch}: {done} of {len(exercises)}"),
      )
    ]  # fmt: skip
  return found


def _texts(
  params: Params, evaluation: Evaluation, policies: Sequence[RoutingPolicy], progress: Callable[[str], None]
) -> list[dict[str, Any]]:
  windows = cut(token_streams(params, read_texts(evaluation.texts)), evaluation.length)
  maker, rows = BatchMaker(params, windows), []
  for batch in evaluation.batches:
    for mix in evaluation.mixes:
      name = f"{mix}, batch {batch}"
      progress(name)
      batches = maker.indices(mix, batch, evaluation.windows, seed=evaluation.seed)
      if not batches:
        raise ValueError(
          f"no {mix} batch of {batch} rows can be made of these texts ({len(windows.tokens)} windows of "
          f"{evaluation.length} tokens): give more text, a smaller --batch or a smaller --length"
        )
      measured = measure_policies(
        params, [windows.tokens[indices] for indices in batches], policies, prompt_length=evaluation.prompt_length,
        progress=lambda done, name=name: progress(f"{name}: {done + 1} of {evaluation.windows}"),
      )  # fmt: skip
      for policy, costs in zip(policies, measured, strict=True):
        named = {"mix": mix, "batch": batch, "batches": len(batches), "policy": format_policy(policy)}
        rows.append(named | dataclasses.asdict(summarize(costs)))
  return rows


def tables(found: dict[str, list[dict[str, Any]]]) -> list[Table]:
  """The results to print."""
  return [_TABLES[kind](rows) for kind, rows in found.items()]


def _texts_table(rows: list[dict[str, Any]]) -> Table:
  table = _table(
    "Next tokens: what each policy reads and costs, with 95 % intervals",
    "mix", "batch", "policy", "experts", "less", "cross-entropy", "more", "KL, nats", "same top-1", "mass kept",
    "worst",
  )  # fmt: skip
  for row in rows:
    cost = PolicyCost(**{name: _interval(row[name]) for name in PolicyCost.__dataclass_fields__})
    table.add_row(
      row["mix"], str(row["batch"]), row["policy"], f"{cost.experts.value:.1f}",
      f"{1 - cost.experts.value / cost.own_experts.value:.0%}", f"{cost.cross_entropy.value:.3f}",
      _span(cost.increase, ".2%"), _span(cost.divergence, ".4f"), f"{cost.agreement.value:.1%}",
      f"{cost.retained.value:.3f}", f"{cost.worst_retained:.3f}",
    )  # fmt: skip
  return table


def _choices_table(rows: list[dict[str, Any]]) -> Table:
  table = _table(
    "Multiple choice, with 95 % intervals",
    "source", "questions", "batch", "policy", "experts", "accuracy", "by byte", "same choice",
  )  # fmt: skip
  for row in sorted(rows, key=lambda row: row["source"]):
    shares = (_span(_interval(row[name]), ".1%") for name in ("accuracy", "by_byte", "agreement"))
    experts = f"{row['experts']:.1f}"
    table.add_row(row["source"], str(row["questions"]), str(row["batch"]), row["policy"], experts, *shares)
  return table


def _exercises_table(rows: list[dict[str, Any]]) -> Table:
  table = _table("Exercises solved, with 95 % intervals", "source", "exercises", "batch", "policy", "experts", "solved")
  for row in sorted(rows, key=lambda row: row["source"]):
    solved, experts = _span(_interval(row["solved"]), ".1%"), f"{row['experts']:.1f}"
    table.add_row(row["source"], str(row["exercises"]), str(row["batch"]), row["policy"], experts, solved)
  return table


_TABLES = {"texts": _texts_table, "choices": _choices_table, "exercises": _exercises_table}


def _table(title: str, *columns: str) -> Table:
  table = Table(title=title)
  for column in columns:
    table.add_column(column, justify="left" if column in ("mix", "policy", "source") else "right")
  return table


def _interval(value: Any) -> Any:
  return Interval(**value) if isinstance(value, dict) else value


def _span(interval: Interval, form: str) -> str:
  return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
