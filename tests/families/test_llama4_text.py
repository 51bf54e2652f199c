import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lynx_jax.models.checkpoints import open_model
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from tests.families.cases import LLAMA4_TEXT, checkpoint
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestLlama4Text(FamilySuite):
  cases = LLAMA4_TEXT
  required = (*REQUIRED_BY_ALL, "intermediate_size", "num_local_experts")
  refused = (
    *REFUSED_BY_ALL,
    ("rope_scaling", {"type": "yarn", "factor": 2.0}),
    ("no_rope_layers", [1]),
    ("layer_types", ["sliding_attention", "full_attention"]),
  )
  renormalizes = False


def test_every_fourth_layer_has_no_positions_and_sees_everything():
  config = written_config(LLAMA4_TEXT[0]) | {"num_hidden_layers": 8}
  for name in ("no_rope_layers", "no_rope_layer_interval", "layer_types", "attention_chunk_size", "moe_layers"):
    del config[name]
  spec = spec_from_config(config | {"interleave_moe_layer_step": 2})
  for index, layer in enumerate(spec.layers):
    attention = attention_of(spec, index)
    turned = index % 4 != 3
    assert (attention.rope is not None, attention.chunk, attention.qk_norm) == (
      turned, 8192 if turned else None, "l2" if turned else "none",
    )  # fmt: skip
    assert (attention.query_growth is None) == turned
    assert isinstance(layer.ffn, MoESpec) == (index % 2 == 1)


def test_a_step_of_no_layers_is_refused():
  config = {name: value for name, value in written_config(LLAMA4_TEXT[0]).items() if name != "moe_layers"}
  with pytest.raises(ValueError, match="'llama4_text' sets interleave_moe_layer_step to 0: not supported; supported: "):
    spec_from_config(config | {"interleave_moe_layer_step": 0})


def test_the_text_part_of_a_model_that_sees_is_read_alone(tmp_path):
  source = checkpoint(LLAMA4_TEXT[0])
  config = json.loads((source / "config.json").read_text())
  outer = {"model_type": "llama4", "text_config": config, "vision_config": {"hidden_size": 4}}
  (tmp_path / "config.json").write_text(json.dumps(outer))
  tensors = {f"language_model.{name}": array for name, array in load_file(source / "model.safetensors").items()}
  tensors["vision_model.patch_embedding.linear.weight"] = np.ones((2, 2), np.float32)
  tensors["multi_modal_projector.linear_1.weight"] = np.ones((2, 2), np.float32)
  save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
  with open_model(tmp_path) as (whole_spec, whole), open_model(source) as (text_spec, text):
    assert whole_spec == text_spec
    found, expected = (dict(one.parameters(one.dtype)) for one in (whole, text))
  assert found.keys() == expected.keys()
  for name, array in expected.items():
    np.testing.assert_array_equal(found[name], array)


def test_an_empty_text_config_is_an_error():
  with pytest.raises(ValueError, match="family 'llama4_text' has no 'num_hidden_layers'"):
    spec_from_config({"model_type": "llama4"})
