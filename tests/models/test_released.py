"""Released models' configurations: sizes against transformers' own classes, and against the models' cards."""

from typing import Any

import pytest
import torch
import transformers

from lynx_jax.models.families import spec_from_config
from lynx_jax.models.released import PUBLISHED_KNOBS, RELEASED, released_config
from lynx_jax.models.sizes import counts
from lynx_jax.routing import Lynx, parse_policy

# Billions of parameters, as the models' cards have them: total, used by a token, and whether the latter counts the
# input embedding. Llama-4-Scout's total is that of its text model; with the vision model it is 109.
PUBLISHED = {
  "DeepSeek-V2-Lite": (15.7, 2.4, False),
  "DeepSeek-V3": (671, 37, True),
  "dbrx-instruct": (132, 36, True),
  "granite-3.1-1b-a400m-base": (1.3, 0.4, True),
  "granite-3.1-3b-a800m-base": (3.3, 0.8, True),
  "Llama-4-Scout-17B-16E": (107.8, 17, True),
  "Mixtral-8x7B": (46.7, 12.9, True),
  "OLMoE-1B-7B": (6.9, 1.3, True),
  "Phi-3.5-MoE-instruct": (41.9, 6.6, True),
  "Qwen1.5-MoE-A2.7B": (14.3, 2.7, True),
  "Qwen2-57B-A14B": (57.4, 14, True),
  "Qwen3-30B-A3B": (30.5, 3.3, True),
  "gpt-oss-20b": (20.9, 3.6, False),
}


def test_every_released_model_is_checked():
  assert RELEASED.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_sizes_are_those_of_the_models_cards_and_of_the_classes_of_transformers(name: str):
  size = counts(spec_from_config(RELEASED[name]))
  total, active, embedded = PUBLISHED[name]
  assert size.total / 1e9 == pytest.approx(total, rel=0.005, abs=0.05)
  assert (size.active - (0 if embedded else size.embedding)) / 1e9 == pytest.approx(active, rel=0.03, abs=0.1)
  assert size.total == parameters_of_transformers(RELEASED[name])


def parameters_of_transformers(config: dict[str, Any]) -> int:
  config = {key: value for key, value in config.items() if key != "quantization_config"}
  with torch.device("meta"):
    model = transformers.AutoModelForCausalLM.from_config(
      transformers.AutoConfig.for_model(**config.get("text_config", config))
    )
  # DeepSeek-V3's bias of the choice of experts is a weight in the files, and a buffer there.
  biases = (tensor for name, tensor in model.named_buffers() if name.endswith("e_score_correction_bias"))
  return model.num_parameters() + sum(tensor.numel() for tensor in biases)


def test_names_are_found_in_any_case_and_with_their_organisation():
  assert released_config("qwen/qwen3-30b-a3b") == RELEASED["Qwen3-30B-A3B"]
  assert released_config("Qwen3-30B") is None


@pytest.mark.parametrize("family", PUBLISHED_KNOBS)
def test_published_knobs_are_policies(family: str):
  assert isinstance(parse_policy(PUBLISHED_KNOBS[family][0]), Lynx)
