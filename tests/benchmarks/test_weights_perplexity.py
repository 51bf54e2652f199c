"""Weights of few bits beside the checkpoint's own weights: figures against NumPy, and the command."""

import json
import re

import jax
import numpy as np
import pytest

import lynx_jax
from benchmarks.claims import weights_perplexity
from tests.families.cases import QWEN3_MOE, checkpoint, random_tokens


@pytest.mark.slow
def test_costs_are_those_of_the_two_models_logits():
  whole, narrow = (lynx_jax.load(checkpoint(QWEN3_MOE[3]), weights=weights) for weights in (None, "int8"))
  rows = random_tokens(QWEN3_MOE[3], rows=18, length=12).astype(np.int32)
  cost = weights_perplexity.weights_cost(narrow, whole, rows)
  logits = (np.asarray(jax.jit(lynx_jax.forward)(params, rows), np.float64)[:, :-1] for params in (narrow, whole))
  ours, own = (log - np.log(np.exp(log).sum(axis=-1, keepdims=True)) for log in logits)
  entropy, own_entropy = (-np.take_along_axis(log, rows[:, 1:, None], axis=-1).mean() for log in (ours, own))
  assert cost.tokens == 18 * 11
  assert cost.cross_entropy.value == pytest.approx(entropy, rel=1e-5)
  assert cost.perplexity.value == pytest.approx(np.exp(entropy), rel=1e-5)
  assert cost.increase.value == pytest.approx(entropy / own_entropy - 1, abs=1e-5)
  assert cost.divergence.value == pytest.approx((np.exp(own) * (own - ours)).sum(axis=-1).mean(), rel=1e-3)
  assert cost.agreement.value == pytest.approx((ours.argmax(axis=-1) == own.argmax(axis=-1)).mean())
  assert cost.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(narrow))
  assert cost.divergence.low <= cost.divergence.value <= cost.divergence.high
  itself = weights_perplexity.weights_cost(whole, whole, rows)
  assert (itself.increase.value, itself.divergence.value, itself.agreement.value) == (0, 0, 1)


@pytest.mark.slow
def test_the_command_compares_the_embedded_models_weights(tmp_path, capsys):
  (tmp_path / "a.txt").write_text("The man is standing in front of a camera and talking to the people. " * 6)
  flags = ["--text", str(tmp_path / "a.txt"), "--rows", "4", "--length", "16", "--json", str(tmp_path / "found.json")]
  flags += ["--policy", "auto", "--batch", "2"]
  weights_perplexity.main(flags)
  found = json.loads((tmp_path / "found.json").read_text())
  forms = ["bfloat16", "int8", "int4"]
  assert list(found) == [name for form in forms for name in (form, f"{form}, auto:share=0.5 x2")]
  assert found["int4"]["weight_bytes"] < 0.32 * found["bfloat16"]["weight_bytes"]
  assert found["int8"]["divergence"]["value"] < found["int4"]["divergence"]["value"] < 0.05
  assert found["bfloat16, auto:share=0.5 x2"]["divergence"]["value"] > 0
  assert found["int8"]["weight_bytes"] < 0.52 * found["bfloat16"]["weight_bytes"]
  assert 0 < found["int8"]["divergence"]["value"] < 0.01
  assert found["bfloat16"]["divergence"]["value"] == 0
  printed = capsys.readouterr().out
  assert re.search(r"\| int8 +\| 21\.6", printed)
  assert re.search(r"\| int4 +\| 13\.0", printed)
