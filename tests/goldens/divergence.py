"""What each policy of README's table costs the embedded model on 64 recorded rows, in batches of 16."""

import dataclasses
from typing import Any

import numpy as np

import lynx_jax
from lynx_jax.evals import measure_policies, summarize
from tests.goldens.stored import inputs

BATCH = 16
POLICIES = (
  "topk",
  "auto",
  "lynx:alpha=3,beta=2",
  "oea:k0=2",
  "xshare:budget=16,k0=1",
  "mass_floor:tau=0.8",
  "budget:policy=(topk),max_active=16",
  "budget:policy=(lynx:alpha=3,beta=2),max_active=16",
  "count_vote:keep=16",
  "prune:k0=2",
)
FIELDS = ("experts", "own_experts", "cross_entropy", "divergence", "agreement", "retained")


def record() -> dict[str, dict[str, float]]:
  """Means over the batches, by policy: experts a layer and step, nats a token, shares."""
  params = lynx_jax.load(dtype="float32")
  rows = inputs()["texts"].astype(np.int32)
  batches = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
  measured = measure_policies(params, batches, [lynx_jax.parse_policy(text) for text in POLICIES], prompt_length=8)
  found = {}
  for text, costs in zip(POLICIES, measured, strict=True):
    summary: dict[str, Any] = dataclasses.asdict(summarize(costs))
    found[text] = {name: float(f"{_value(summary[name]):.7g}") for name in FIELDS}
  return found


def _value(interval: Any) -> float:
  return interval["value"] if isinstance(interval, dict) else interval.value
