"""`info`: of released models, bare configurations and checkpoints; its figures by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import lynx_jax
from lynx_jax.info import describe, read_config
from lynx_jax.models.released import RELEASED
from lynx_jax.models.sizes import weight_bytes
from tests.checkpoints_convert.compressed_layers import checkpoint as compressed
from tests.checkpoints_convert.quantised_files import blocks_of_fp8, fp8_config, gpt_oss_checkpoint, quantised
from tests.checkpoints_convert.tampering import copied
from tests.checkpoints_convert.test_formats import fp8_checkpoint
from tests.checkpoints_convert.test_words import files as words
from tests.families.cases import MIXTRAL, OLMOE, QWEN3_MOE, checkpoint


def test_a_released_model_is_described_by_its_name():
  lines = dict(describe("Qwen3-30B-A3B"))
  assert lines["parameters"] == "30.53B, of which a token uses 3.35B"
  # Three matrices of 2048 x 768 in bfloat16: 9.44 MB; 128 of them, and the 8 of a token.
  assert lines["one expert"] == "9.44 MB; a layer's 1.21 GB, of which a token 75.50 MB"
  assert lines["KV cache per token"] == f"{48 * 2 * 4 * 128 * 2} bytes"
  assert lines["published for the family"] == "lynx:alpha=3,beta=2 (Qwen3-30B-A3B, arXiv 2411.08982)"
  for policy in ("auto", "oea:k0=1..7", "prune:k0=1..7", "xshare:budget=8..127"):
    assert policy in lines["policies"]


def test_what_is_peculiar_to_a_model_is_said():
  assert dict(describe("gpt-oss-20b"))["dtype"] == "bfloat16, stored as mxfp4"
  lines = dict(describe("Qwen2-57B-A14B"))
  assert lines["experts"].endswith("8 per token, and one of width 20480 for every token")


def test_latents_and_groups_are_said():
  lines = dict(describe("deepseek-ai/DeepSeek-V3"))
  assert lines["dtype"] == "bfloat16, stored as fp8"
  assert lines["layers"] == "61, 58 with experts"
  assert lines["experts"].endswith("8 per token, and one of width 2048 for every token")
  assert lines["router"] == "sigmoid, top 8, renormalised, from the best 4 of 8 groups, times 2.5"
  # A latent of 512 and a rotary key of 64 a layer, in bfloat16.
  assert lines["KV cache per token"] == f"{61 * 576 * 2} bytes"
  assert dict(describe("gpt-oss-20b"))["dtype"] == "bfloat16, stored as mxfp4"


def test_a_file_and_a_directory_without_weights_are_described_as_the_name(tmp_path: Path):
  (tmp_path / "config.json").write_text(json.dumps(RELEASED["OLMoE-1B-7B"] | {"torch_dtype": "float32"}))
  lines = dict(describe("OLMoE-1B-7B"))
  for where in (tmp_path, tmp_path / "config.json"):
    found = dict(describe(where))
    assert found["dtype"] == "float32"
    assert found["parameters"] == lines["parameters"]
    assert found["KV cache per token"] == f"{2 * int(lines['KV cache per token'].split()[0])} bytes"


def test_a_checkpoint_is_described_from_its_files(tmp_path: Path):
  assert dict(describe(checkpoint(OLMOE[0], "bfloat16")))["dtype"] == "bfloat16"
  path, _ = fp8_checkpoint(MIXTRAL[0], tmp_path)
  assert dict(describe(path))["dtype"] == "bfloat16, stored as fp8"


def mxfp4_checkpoint(directory: Path) -> Path:
  return gpt_oss_checkpoint(directory / "mxfp4")


def fp8_in_blocks(directory: Path) -> Path:
  return quantised(copied(QWEN3_MOE[3], directory / "fp8"), fp8_config(32, 16), blocks_of_fp8(32, 16))[0]


def gptq(directory: Path) -> Path:
  return words("4 bits with zeros", directory)[0]


def awq(directory: Path) -> Path:
  return words("awq", directory)[0]


def nvfp4(directory: Path) -> Path:
  return compressed(directory / "nvfp4", "nvfp4")[0]


@pytest.mark.parametrize(
  ("write", "form"),
  [
    (mxfp4_checkpoint, "e2m1_g32"), (fp8_in_blocks, "e4m3_g16"), (gptq, "int4_g32"), (awq, "int4_g16"),
    (nvfp4, "e2m1_g16"),
  ],
)  # fmt: skip
def test_what_stays_quantised_is_said_of_files_and_of_their_configuration_alone(
  write: Callable[[Path], Path], form: str, tmp_path: Path
):
  path = write(tmp_path)
  found, held, plain = dict(describe(path)), *(lynx_jax.load(path, weights=how).decoder for how in (None, "float"))
  size, whole = (f"{weight_bytes(one).total / 1e6:.2f} MB" for one in (held, plain))
  assert found["kept quantised"] == f"{form}: {size} for the {whole} of {held.dtype}"
  assert found["weights"].startswith(f"{size}, of which experts")
  (tmp_path / "alone").mkdir()
  config = json.loads((path / "config.json").read_text())
  (tmp_path / "alone" / "config.json").write_text(json.dumps(config | {"dtype": held.dtype.name}))
  alone = dict(describe(tmp_path / "alone"))
  assert alone["weights"] == found["weights"]
  assert alone["kept quantised"] == found["kept quantised"]


def test_sizes_of_released_models_are_those_of_their_quantised_files():
  # The hub's page says 13.8 GB of gpt-oss-20b's files.
  assert float(dict(describe("gpt-oss-20b"))["weights"].split()[0]) == pytest.approx(13.8, abs=0.1)
  # 671B numbers of a byte; a block's scale is there for each of its rows, 4 bytes for 128 numbers.
  assert float(dict(describe("DeepSeek-V3"))["weights"].split()[0]) == pytest.approx(671 * (1 + 4 / 128), rel=0.01)


def test_settings_that_are_not_supported_change_no_size(tmp_path: Path):
  settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
  (tmp_path / "config.json").write_text(json.dumps(RELEASED["OLMoE-1B-7B"] | {"quantization_config": settings}))
  lines = dict(describe(tmp_path))
  assert lines["dtype"] == "bfloat16, stored as bitsandbytes"
  assert lines["weights"] == dict(describe("OLMoE-1B-7B"))["weights"]


def test_weights_that_do_not_fit_are_an_error(tmp_path: Path):
  path = copied(MIXTRAL[0], tmp_path)
  config = json.loads((path / "config.json").read_text()) | {"intermediate_size": 40}
  (path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="weights do not fit"):
    describe(path)


def test_policies_that_change_nothing_are_left_out(tmp_path: Path):
  changes = {"num_experts_per_tok": 64}, {"num_experts_per_tok": 1}
  found = []
  for change in changes:
    (tmp_path / "config.json").write_text(json.dumps(RELEASED["OLMoE-1B-7B"] | change))
    found.append(dict(describe(tmp_path))["policies"])
  assert found[0] == "topk only: a token runs every expert"
  assert "prune" not in found[1]
  assert "count_vote:keep=1..63" in found[1]


def test_what_is_no_model_is_named_with_the_names_that_are_known():
  with pytest.raises(FileNotFoundError, match=r"nonsense does not exist: .*or one of .*Mixtral-8x7B"):
    read_config("nonsense")
  with pytest.raises(FileNotFoundError, match=r"hf download org/name .*Mixtral-8x7B"):
    describe("org/name")
