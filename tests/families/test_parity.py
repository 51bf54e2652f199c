"""Our logits equal transformers' in float32, for every family and flag."""

import jax
import numpy as np
import pytest
from families.cases import CASES, Case, Checkpoints, random_tokens, reference_logits

import lynx_jax

# Of the largest logit's magnitude: float32 sums in another order differ by about 1e-6 a layer.
TOLERANCE = 1e-4


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_equal_those_of_transformers(case: Case, checkpoints: Checkpoints):
  tokens = random_tokens(case, rows=2, length=19)
  params = lynx_jax.load(checkpoints(case))
  logits = jax.jit(lynx_jax.forward)(params, tokens)
  assert largest_difference(np.asarray(logits), reference_logits(case, tokens)) < TOLERANCE
