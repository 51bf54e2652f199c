"""Weights that files hold quantised stay so: what is kept, how many bytes it takes, and what logits it gives."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as torch_file

import lynx_jax
from lynx_jax.models.checkpoints import convert
from pallas_kernels import dequantize, quantize
from tests.checkpoints_convert.quantised_files import blocks_of_fp8, fp8_config, gpt_oss_checkpoint, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import DEEPSEEK_V3, GPT_OSS, QWEN3_MOE, random_tokens
from tests.held import held, packed

_forward = jax.jit(lynx_jax.forward)


def fp8_checkpoint(directory: Path) -> Path:
  return quantised(copied(QWEN3_MOE[3], directory), fp8_config(32, 16), blocks_of_fp8(32, 16))[0]


def fp8_latents(directory: Path) -> Path:
  return quantised(copied(DEEPSEEK_V3[0], directory), fp8_config(32, 16), blocks_of_fp8(32, 16))[0]


FILES = {"mxfp4": gpt_oss_checkpoint, "fp8": fp8_checkpoint, "fp8 latents": fp8_latents}


@functools.cache
def files(kind: str, directory: Path) -> Path:
  return FILES[kind](directory / kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return tmp_path_factory.mktemp("packed")


@pytest.mark.parametrize("kind", FILES)
def test_logits_are_those_of_the_numbers_that_files_hold(kind: str, folder: Path):
  path = files(kind, folder)
  ours, plain = (lynx_jax.load(path, dtype="float32", weights=how) for how in (None, "float"))
  assert packed(ours)
  assert not packed(plain)
  for name, weight in packed(ours).items():
    np.testing.assert_array_equal(dequantize(weight), held(plain)[name], err_msg=name)
  tokens = random_tokens(GPT_OSS[0], rows=2, length=17)
  found, expected = (np.asarray(_forward(params, tokens)) for params in (ours, plain))
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_experts_of_gpt_oss_are_the_bytes_of_the_file(folder: Path):
  path = files("mxfp4", folder)
  found, tensors = packed(lynx_jax.load(path)), load_file(path / "model.safetensors")
  assert found.keys() == {f"layers.{n}.ffn.{name}" for n in range(2) for name in ("gate_up", "down")}
  theirs = "model.layers.1.mlp.experts"
  blocks, exponents = (tensors[f"{theirs}.gate_up_proj_{part}"] for part in ("blocks", "scales"))
  # Gate and up rows alternate there.
  in_order = [*range(0, 64, 2), *range(1, 64, 2)]
  ours = found["layers.1.ffn.gate_up"]
  np.testing.assert_array_equal(ours.values, blocks[:, in_order].reshape(4, 64, 32))
  np.testing.assert_array_equal(np.asarray(ours.scales).view(np.uint8), exponents[:, in_order])
  np.testing.assert_array_equal(
    found["layers.1.ffn.down"].values, tensors[f"{theirs}.down_proj_blocks"].reshape(4, 64, 16)
  )


@pytest.mark.parametrize("kind", FILES)
def test_converting_keeps_the_bytes(kind: str, folder: Path, tmp_path: Path):
  path = files(kind, folder)
  convert(path, tmp_path / "out")
  convert(tmp_path / "out", tmp_path / "again")
  expected = lynx_jax.load(path)
  for made in ("out", "again"):
    found = lynx_jax.load(tmp_path / made)
    assert jax.tree.structure(expected.decoder) == jax.tree.structure(found.decoder)
    for first, second in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
      assert np.asarray(first).tobytes() == np.asarray(second).tobytes()
  convert(tmp_path / "out", tmp_path / "back", to="hf")
  theirs, back = (torch_file(where / "model.safetensors") for where in (path, tmp_path / "back"))
  assert theirs.keys() == back.keys()
  for name, tensor in theirs.items():
    # Selection biases are float32 in a model of any dtype.
    tensor = tensor.float() if name.endswith("e_score_correction_bias") else tensor
    assert (back[name].shape, back[name].dtype) == (tensor.shape, tensor.dtype), name
    assert torch.equal(back[name].view(torch.uint8), tensor.view(torch.uint8)), name
  settings = [json.loads((where / "config.json").read_text()) for where in (path, tmp_path / "back")]
  assert settings[0]["quantization_config"] == settings[1]["quantization_config"]
  convert(path, tmp_path / "plain", weights="float")
  assert not packed(lynx_jax.load(tmp_path / "plain"))
  assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()


def test_other_weights_can_be_asked_for(folder: Path):
  path = files("mxfp4", folder)
  plain = held(lynx_jax.load(path, weights="float"))
  eight = packed(lynx_jax.load(path, weights="int8"))
  expected = quantize(np.asarray(dequantize(plain["layers.0.ffn.down"], jnp.bfloat16)))
  np.testing.assert_array_equal(eight["layers.0.ffn.down"].values, expected.values)
  assert {weight.kind for weight in eight.values()} == {"int8"}


def test_what_latents_expand_to_is_plain_and_all_other_matrices_are_kept(folder: Path):
  params = lynx_jax.load(files("fp8 latents", folder))
  plain = held(params).keys() - packed(params).keys()
  assert {name.rpartition(".")[2] for name in packed(params)} >= {"query_up", "output", "gate_up", "down"}
  assert {name.rpartition(".")[2] for name in plain} >= {"key_up", "value_up", "router", "scale"}
  assert held(params)["layers.0.attention.key_up"].dtype == jnp.bfloat16
