"""What a routing policy costs: exact cross-entropy of batched decoding, divergence from the model's own routing."""

from lynx_jax.evals.bootstrap import Interval, paired_ratio, ratio
from lynx_jax.evals.compare import PolicyCost, compare_policies
from lynx_jax.evals.decoding import Texts, whole_rows
from lynx_jax.evals.faithful import BatchCost, batch_costs
from lynx_jax.evals.mixes import Windows, adversarial, cut, expert_usage, mixed, one_domain

__all__ = [
  "BatchCost",
  "Interval",
  "PolicyCost",
  "Texts",
  "Windows",
  "adversarial",
  "batch_costs",
  "compare_policies",
  "cut",
  "expert_usage",
  "mixed",
  "one_domain",
  "paired_ratio",
  "ratio",
  "whole_rows",
]
