"""Greedy texts: every family's tiny configuration and the embedded model, alone and under policies, in float32."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import lynx_jax
from tests.goldens.checkpoints import FAMILIES, write_checkpoint

EMBEDDED = "embedded"
MODELS = (*FAMILIES, EMBEDDED)
PROMPT_LENGTHS = (1, 16, 6, 3, 11)
NEW_TOKENS = 16
POLICIES = (None, "auto", "lynx:alpha=1,beta=1", "oea:k0=1")
PROMPTS = (
  "A man is standing on a ladder. He",
  "Question: What do plants need to grow?\nAnswer:",
  "She",
  "How to make tea: first",
)


def record(model: str) -> dict[str, Any]:
  """For each policy, the tokens of every row, and the mean number of distinct experts of each MoE layer."""
  if model == EMBEDDED:
    return _texts(lynx_jax.load(dtype="float32"), PROMPTS)
  random = np.random.default_rng(5)
  prompts = [random.integers(128, size=length).tolist() for length in PROMPT_LENGTHS]
  with tempfile.TemporaryDirectory() as folder:
    directory = Path(folder) / model
    write_checkpoint(model, directory)
    return _texts(lynx_jax.load(str(directory)), prompts)


def _texts(params: lynx_jax.Params, prompts: Any) -> dict[str, Any]:
  found = {}
  for text in POLICIES:
    policy = None if text is None else lynx_jax.parse_policy(text)
    rows = lynx_jax.generate(params, prompts, max_new_tokens=NEW_TOKENS, policy=policy, stats=True)
    stats = rows[0].stats
    assert stats is not None
    found[text or "none"] = {
      "tokens": [list(row.token_ids) for row in rows],
      "experts": [round(float(active), 4) for active in stats.active_experts],
    }
  return found
