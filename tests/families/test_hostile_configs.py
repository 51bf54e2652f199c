"""A setting of a wrong type, or a number that cannot be meant, is one line that names the field and what would do."""

import json
from pathlib import Path

import pytest

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from lynx_jax.info import describe
from lynx_jax.models.families import spec_from_config
from lynx_jax.testing.tiny_configs import TINY
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL


@pytest.mark.parametrize(
  ("family", "changes", "message"),
  [
    ("mixtral", {"rope_theta": 0}, "rope_theta to 0.0: .*a number above 0"),
    ("mixtral", {"rope_parameters": {"rope_theta": -1.0}}, "rope_parameters.rope_theta to -1.0: .*a number above 0"),
    ("mixtral", {"rope_theta": "1e6"}, "rope_theta to '1e6': .*a number"),
    ("mixtral", {"rope_theta": float("nan")}, "rope_theta to nan: .*a number"),
    ("mixtral", {"rope_scaling": [1]}, r"rope_scaling to \[1\]: .*an object"),
    ("mixtral", {"rope_scaling": {"type": 5}}, "rope_scaling.type to 5: .*a word"),
    ("mixtral", {"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling.factor to 'x': .*a number"),
    ("mixtral", {"eos_token_id": "abc"}, "eos_token_id to 'abc': .*a token id, a list of ids, or null"),
    ("mixtral", {"eos_token_id": [1, "b"]}, r"eos_token_id to \[1, 'b'\]: .*a token id, a list of ids, or null"),
    ("mixtral", {"sliding_window": 4.5}, "sliding_window to 4.5: .*a whole number"),
    ("mixtral", {"tie_word_embeddings": "no"}, "tie_word_embeddings to 'no': .*true or false"),
    ("mixtral", {"rms_norm_eps": True}, "rms_norm_eps to True: .*a number"),
    ("mixtral", {"num_hidden_layers": 10**6}, "num_hidden_layers to 1000000: .*a whole number from 0 to 1000"),
    ("mixtral", {"num_local_experts": 10**12}, "num_local_experts to 1000000000000: .*a whole number from 0 to"),
    ("mixtral", {"vocab_size": "9" * 500}, r"vocab_size to '9{79}\.\.\.: .*a whole number"),
    ("qwen3_moe", {"mlp_only_layers": "0"}, "mlp_only_layers to '0': .*a list of whole numbers"),
    ("qwen3_moe", {"num_key_value_heads": None}, "num_key_value_heads to None: .*a whole number"),
    ("gpt_oss", {"layer_types": {"0": "full_attention"}}, "layer_types to {'0': 'full_attention'}: .*a list of words"),
    ("llama4_text", {"no_rope_layers": "1111"}, "no_rope_layers to '1111': .*a list of whole numbers"),
    ("llama4_text", {"no_rope_layer_interval": 0}, "no_rope_layer_interval to 0: .*1 or more"),
    ("dbrx", {"attn_config": [1]}, r"attn_config to \[1\]: .*an object"),
    ("dbrx", {"ffn_config": {"moe_num_experts": "4"}}, "ffn_config.moe_num_experts to '4': .*a whole number"),
    ("phimoe", {"num_attention_heads": 0}, "num_attention_heads 0|heads is 0"),
  ],
)
def test_a_wrong_value_is_named(family: str, changes: dict, message: str):
  with pytest.raises(ValueError, match=message) as raised:
    spec_from_config({**TINY[family], **changes})
  assert "\n" not in str(raised.value)
  assert len(str(raised.value)) < 300


@pytest.mark.parametrize("model_type", [[], {}, 5, ["mixtral"]])
def test_a_model_type_that_is_no_word_is_an_unknown_one(model_type):
  with pytest.raises(ValueError, match=r"has model_type .*; supported: dbrx, "):
    spec_from_config({**TINY["mixtral"], "model_type": model_type})


def test_a_text_config_that_is_no_object_is_named():
  with pytest.raises(ValueError, match="model_type 'llama4' sets text_config to 'x': expected an object"):
    spec_from_config({"model_type": "llama4", "text_config": "x"})


def changed(directory: Path, **changes) -> Path:
  path = copied(MIXTRAL[0], directory)
  config = json.loads((path / "config.json").read_text()) | changes
  (path / "config.json").write_text(json.dumps(config))
  return path


@pytest.mark.parametrize(
  "changes", [{"num_local_experts": 20_000_000}, {"num_local_experts": 10_000, "num_hidden_layers": 900}]
)
def test_a_model_many_times_larger_than_its_files_is_refused_before_its_tensors_are_named(
  tmp_path: Path, changes: dict
):
  path = changed(tmp_path, **changes)
  with pytest.raises(CheckpointError, match=r"which describes .* parameters where the files hold .*layers and experts"):
    lynx_jax.load(path)


@pytest.mark.parametrize("read", [lynx_jax.load, describe], ids=["load", "info"])
def test_a_quantization_that_is_no_object_is_named(tmp_path: Path, read):
  with pytest.raises(ValueError, match="sets quantization_config to 'fp8': expected an object"):
    read(changed(tmp_path, quantization_config="fp8"))


def test_a_file_that_is_nested_too_deeply_is_named(tmp_path: Path):
  path = copied(MIXTRAL[0], tmp_path)
  (path / "config.json").write_text("[" * 100_000)
  with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON \(maximum recursion depth"):
    lynx_jax.load(path)


@pytest.mark.parametrize("read", [lynx_jax.load, lambda name: lynx_jax.convert(name, "out")], ids=["load", "convert"])
@pytest.mark.parametrize(
  ("name", "repository"),
  [("Qwen3-30B-A3B", "ORGANISATION/Qwen3-30B-A3B"), ("Qwen/qwen3-30b-a3b", "Qwen/qwen3-30b-a3b")],
)
def test_a_released_model_must_be_downloaded(name: str, repository: str, read):
  with pytest.raises(FileNotFoundError, match=f"must be downloaded first: hf download {repository} --local-dir"):
    read(name)


def test_an_empty_path_is_named():
  with pytest.raises(ValueError, match="path is '': expected a model directory; None is the embedded model"):
    lynx_jax.load("")
