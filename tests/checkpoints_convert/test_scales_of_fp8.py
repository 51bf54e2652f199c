"""8-bit floats under every kind of scales: one a block, an output or a matrix, in floats or in powers of two."""

import json
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import torch

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import Packed, format_of
from checkpoints_convert.formats.fp8 import dequantise_fp8
from lynx_jax.models.checkpoints import open_model
from tests.checkpoints_convert.memory_reader import MemoryReader
from tests.checkpoints_convert.quantised_files import Tensors, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL
from tests.held import packed

FLOAT32 = np.dtype(np.float32)
CODES = np.random.default_rng(0).integers(0, 127, (3, 40, 96), np.uint8)


def opened(arrays: dict[str, np.ndarray], **settings: Any) -> Packed:
  form = format_of({"quantization_config": {"quant_method": "fp8", **settings}}, "here")
  assert form is not None
  return form.packed(MemoryReader(arrays))["x.weight"]


@hypothesis.given(
  st.sampled_from([(128, 128), (16, 32), (24, 64), (1, 96), (7, 16), (40, 40)]),
  st.sampled_from([np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu]),
  st.sampled_from(["_scale_inv", "_scale"]),
  st.sampled_from([(40, 96), (40, 89), (3, 40, 96)]),
)
@hypothesis.settings(max_examples=40, deadline=None)
def test_blocks_are_held_as_groups_of_inputs(block, scale_type, suffix, shape):
  codes = CODES[..., : shape[-1]] if len(shape) == 3 else CODES[0, :, : shape[-1]]
  *lead, rows, columns = shape
  blocks = (*lead, -(-rows // block[0]), -(-columns // block[1]))
  scales = np.exp2(np.random.default_rng(1).integers(-3, 3, blocks)).astype(scale_type)
  values = codes.view(ml_dtypes.float8_e4m3fn)
  one = opened({"x.weight": values, f"x.weight{suffix}": scales}, weight_block_size=list(block))
  assert one.shape == shape
  expected = dequantise_fp8(values, scales.astype(np.float32), FLOAT32, block=block)
  np.testing.assert_array_equal(one.numbers(FLOAT32), expected)
  if block == (40, 40):
    assert one.held is None
    return
  assert one.read is not None
  assert one.held is not None
  weight = one.read()
  assert (weight.values.shape, weight.scales.shape) == (one.held.values.shape, one.held.scales.shape)
  assert weight.scales.dtype == one.held.scales.dtype == scale_type
  assert weight.form.group == (None if block[1] >= columns else block[1])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (40,), (40, 1)])
@pytest.mark.parametrize("settings", [{}, {"weight_block_size": None, "fmt": "float8_e4m3fn"}])
def test_scales_of_outputs_and_of_the_matrix(shape: tuple[int, ...], settings: dict[str, Any]):
  scales = np.random.default_rng(1).lognormal(size=shape).astype(np.float32).reshape(shape)
  values = CODES[0].view(ml_dtypes.float8_e4m3fn)
  beside = {"x.input_scale": np.ones((), np.float32), "x.k_scale": np.ones(1, np.float32)}
  one = opened({"x.weight": values, "x.weight_scale": scales, **beside}, activation_scheme="static", **settings)
  expected = values.astype(np.float32) * (scales.reshape(40, 1) if scales.size == 40 else scales.ravel())
  np.testing.assert_array_equal(one.numbers(FLOAT32), expected)
  assert one.held is not None
  assert one.held.form.name == "e4m3"


def test_scales_that_fit_nothing_are_named():
  values = CODES[0].view(ml_dtypes.float8_e4m3fn)
  with pytest.raises(CheckpointError, match=r"x.weight_scale has shape \[39\], expected one number or one an output"):
    opened({"x.weight": values, "x.weight_scale": np.ones(39, np.float32)}, weight_block_size=None)


def of_modelopt(name: str, tensor: torch.Tensor) -> Tensors:
  """Experts as NVFP4, attention as e4m3 with one scale, as ModelOpt writes them: any bits, since they are only read."""
  if not is_linear(name):
    return {name: tensor.bfloat16()}
  (rows, columns), random = tensor.shape, torch.Generator().manual_seed(tensor.numel())
  module = name.removesuffix("weight")
  if ".experts." not in name:
    narrow = (tensor / tensor.abs().max() * 448).to(torch.float8_e4m3fn)
    scales = {f"{name}_scale": tensor.abs().max() / 448, f"{module}input_scale": torch.ones(())}
    return {name: narrow, f"{module}k_scale": torch.ones(())} | scales
  pairs = torch.randint(0, 256, (rows, columns // 2), dtype=torch.uint8, generator=random)
  scales = torch.rand(rows, columns // 16, generator=random).to(torch.float8_e4m3fn)
  return {
    name: pairs,
    f"{name}_scale": scales,
    f"{name}_scale_2": torch.tensor(0.37),
    f"{module}input_scale": torch.ones(()),
  }


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


@pytest.mark.parametrize("where", ["config.json", "hf_quant_config.json"])
def test_modelopt_multiplies_by_both_scales(where: str, tmp_path: Path):
  settings = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}
  path, tensors = quantised(copied(MIXTRAL[2], tmp_path), settings if where == "config.json" else None, of_modelopt)
  if where != "config.json":
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (path / where).write_text(json.dumps(said))
  held = packed(lynx_jax.load(path))
  assert {weight.form.name for weight in held.values()} == {"e4m3", "e2m1_g16"}
  with open_model(path) as (_, checkpoint):
    found = dict(checkpoint.parameters(FLOAT32, ["layers.1.ffn.down", "layers.0.attention.query"]))
  name = "model.layers.1.block_sparse_moe.experts.3.w2.weight"
  pairs = tensors[name].numpy()
  numbers = E2M1[np.stack([pairs & 15, pairs >> 4], -1).reshape(len(pairs), -1)]
  expected = numbers * np.repeat(tensors[f"{name}_scale"].float().numpy(), 16, axis=1) * np.float32(0.37)
  np.testing.assert_array_equal(np.asarray(found["layers.1.ffn.down"])[3], expected)
  name = "model.layers.0.self_attn.q_proj.weight"
  expected = tensors[name].float().numpy() * tensors[f"{name}_scale"].numpy()
  np.testing.assert_array_equal(found["layers.0.attention.query"], expected)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quant_method to 'bitsandbytes': not supported"),
    (
      {"quantization_config": {"quant_method": "quip"}},
      "quant_method to 'quip': not supported; supported: .*compressed-",
    ),
    ({"text_config": {"quantization_config": {"quant_method": "aqlm"}}}, "quant_method to 'aqlm': not supported"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "sets quantization to .*, which is MLX's format: not supported"),
    (
      {"quantization": {"bits": 4}, "quantization_config": {"bits": 4}},
      "sets quantization to .*, which is MLX's format: not supported",
    ),
    ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "INT4_AWQ"}}, "quant_algo to 'INT4_AWQ'"),
  ],
)
def test_formats_that_are_not_supported_are_named(changed: dict[str, Any], message: str, tmp_path: Path):
  path = copied(MIXTRAL[2], tmp_path)
  config = json.loads((path / "config.json").read_text())
  (path / "config.json").write_text(json.dumps(config | changed))
  with pytest.raises(CheckpointError, match=f"config.json .*{message}"):
    lynx_jax.load(path)


def test_the_file_of_modelopt_names_what_is_not_supported(tmp_path: Path):
  path = copied(MIXTRAL[2], tmp_path)
  (path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "W4A8_AWQ"}}))
  with pytest.raises(CheckpointError, match="quant_algo to 'W4A8_AWQ': not supported; supported: FP8"):
    lynx_jax.load(path)
