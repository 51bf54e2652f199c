"""What a routing policy costs: cross-entropy of batched decoding, divergence from the model's own, tasks."""

from lynx_jax.evals.bootstrap import Interval, paired_ratio, ratio
from lynx_jax.evals.choices import Accuracy, Question, answer_questions
from lynx_jax.evals.compare import (
  CostAt,
  Measured,
  PolicyCost,
  cost_at,
  fewest_within,
  measure_policies,
  summarize,
  times_cheaper,
)
from lynx_jax.evals.decoding import Texts, whole_rows
from lynx_jax.evals.exercises import Exercise, Solved, solve_exercises
from lynx_jax.evals.faithful import BatchCost, batch_costs
from lynx_jax.evals.likelihood import Continuation, Scored, score_continuations
from lynx_jax.evals.mixes import Windows, adversarial, cut, expert_usage, mixed, one_domain
from lynx_jax.evals.text_files import read_exercises, read_questions, read_texts, token_streams

__all__ = [
  "Accuracy", "BatchCost", "Continuation", "CostAt", "Exercise", "Interval", "Measured", "PolicyCost", "Question",
  "Scored", "Solved", "Texts", "Windows", "adversarial", "answer_questions", "batch_costs", "cost_at", "cut",
  "expert_usage", "fewest_within", "measure_policies", "mixed", "one_domain", "paired_ratio", "ratio", "read_exercises",
  "read_questions", "read_texts", "score_continuations", "solve_exercises", "summarize", "times_cheaper",
  "token_streams", "whole_rows",
]  # fmt: skip
