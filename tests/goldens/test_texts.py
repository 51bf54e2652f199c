"""Greedy texts are those that were recorded, under no policy and under three."""

import pytest

from tests.goldens import stored, texts

# One kind of attention each; tests of the families judge every one by its logits.
OFTEN = {"olmoe", "gpt_oss", "deepseek_v3", "embedded"}
MODELS = [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in texts.MODELS]


@pytest.mark.parametrize("model", MODELS)
def test_greedy_texts_are_those_recorded(model: str):
  found, recorded = texts.record(model), stored.read("texts")[model]
  for policy, now in found.items():
    assert now["tokens"] == recorded[policy]["tokens"], policy
    assert now["experts"] == pytest.approx(recorded[policy]["experts"], abs=1e-3), policy
  assert found.keys() == recorded.keys()


def test_policies_change_texts_somewhere():
  """Otherwise the texts would say nothing about policies."""
  recorded = stored.read("texts")
  for policy in filter(None, texts.POLICIES):
    assert any(recorded[model][policy]["tokens"] != recorded[model]["none"]["tokens"] for model in texts.MODELS)
    assert any(recorded[model][policy]["experts"] < recorded[model]["none"]["experts"] for model in texts.MODELS)
