"""Released models' configurations: sizes against transformers' own classes, and against the models' cards."""

import pytest
import torch
import transformers

from lynx_jax.models.counts import counts
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import PUBLISHED_KNOBS, RELEASED, released_config
from lynx_jax.routing import Lynx, parse_policy

# Billions of parameters, as the models' cards have them: total, and used by a token. Cards round: OLMoE's 6.9 is
# 6.92, and DeepSeek-V3's 37 counts the embedding once.
PUBLISHED = {
  "Mixtral-8x7B": (46.7, 12.9),
  "OLMoE-1B-7B": (6.9, 1.3),
  "Qwen3-30B-A3B": (30.5, 3.3),
  "Qwen2-57B-A14B": (57.4, 14.2),
  "granite-3.1-1b-a400m-base": (1.33, 0.43),
  # Its card's 3.6 leaves the embedding out.
  "gpt-oss-20b": (20.9, 4.19),
  "dbrx-instruct": (131.6, 36),
  "Phi-3.5-MoE-instruct": (41.9, 6.6),
  # The text alone, of a model of 109.
  "Llama-4-Scout-17B-16E": (107.8, 17),
}


def test_every_released_model_is_checked():
  assert RELEASED.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_are_those_of_the_models_cards(name: str):
  size = counts(spec_from_config(RELEASED[name]))
  total, active = PUBLISHED[name]
  assert size.total / 1e9 == pytest.approx(total, rel=0.005)
  assert size.active / 1e9 == pytest.approx(active, rel=0.03)


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_are_those_of_the_classes_of_transformers(name: str):
  config = {key: value for key, value in RELEASED[name].items() if key != "quantization_config"}
  with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config))
  assert counts(spec_from_config(RELEASED[name])).total == model.num_parameters()


def test_names_are_found_in_any_case_and_with_their_organisation():
  assert released_config("qwen/qwen3-30b-a3b") == RELEASED["Qwen3-30B-A3B"]
  assert released_config("Qwen3-30B") is None


@pytest.mark.parametrize("family", PUBLISHED_KNOBS)
def test_published_knobs_are_policies(family: str):
  assert isinstance(parse_policy(PUBLISHED_KNOBS[family][0]), Lynx)
