"""Weights that the compressed-tensors package packs, against what it unpacks."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import format_of
from lynx_jax.models.sizes import bytes_of
from pallas_kernels import QuantizedWeight
from pallas_kernels.weights.widening import widened
from tests.checkpoints_convert.compressed_layers import SCHEMES, arrays, checkpoint, config, parts
from tests.checkpoints_convert.memory_reader import MemoryReader
from tests.checkpoints_convert.quantised_files import Tensors, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL, random_tokens
from tests.held import packed

FLOAT32 = np.dtype(np.float32)
NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("outs", [16, 48])
def test_a_layer_is_what_the_package_unpacks(kind: str, outs: int):
  torch.manual_seed(outs)
  found, expected = parts(kind, torch.randn(outs, 128))
  form = format_of({"quantization_config": config(kind, "w4 in 64, asymmetric", "w8 in 32")}, "here")
  assert form is not None
  one = form.packed(MemoryReader(arrays({f"{NAME}{part}": tensor for part, tensor in found.items()})))[NAME]
  assert one.shape == (outs, 128)
  assert one.held is not None
  assert one.read is not None
  weight = one.read()
  assert weight.form.name == one.held.form.name == SCHEMES[kind][2]
  for leaf in ("values", "scales", "zeros", "gains"):
    ours, said = getattr(weight, leaf), getattr(one.held, leaf)
    assert (ours is None) == (said is None)
    assert ours is None or (ours.shape, ours.dtype) == (said.shape, said.dtype), leaf
  largest = expected.abs().max().item()
  np.testing.assert_allclose(one.numbers(FLOAT32), expected.numpy(), rtol=0, atol=largest * 2**-22)
  np.testing.assert_array_equal(one.numbers(FLOAT32), widened(weight, FLOAT32))


@pytest.mark.parametrize("kind", [kind for kind in SCHEMES if "matrix" not in kind and "blocks" not in kind])
def test_stacked_experts_are_what_the_package_unpacks_of_each(kind: str):
  torch.manual_seed(3)
  layers, numbers = zip(*(parts(kind, torch.randn(16, 128)) for _ in range(3)), strict=True)
  stacked = {name: np.stack([arrays(layer)[name] for layer in layers]) for name in layers[0] if name != "_shape"}
  if "_shape" in layers[0]:
    stacked["_shape"] = np.array([3, 16, 128])
  form = format_of({"quantization_config": config(kind, "w4 in 64, asymmetric", "w8 in 32")}, "here")
  assert form is not None
  name = "model.layers.0.mlp.experts.down_proj"
  one = form.packed(MemoryReader({f"{name}{part}": array for part, array in stacked.items()}))[name]
  assert one.shape == (3, 16, 128)
  assert one.held is not None
  assert one.held.form.name == SCHEMES[kind][2]
  for expert, expected in enumerate(numbers):
    largest = expected.abs().max().item()
    np.testing.assert_allclose(one.numbers(FLOAT32)[expert], expected.numpy(), rtol=0, atol=largest * 2**-22)


_forward = jax.jit(lynx_jax.forward)


@pytest.mark.parametrize("kinds", [("w4 in 32", "nvfp4"), ("w4 in 32, asymmetric", "int8 an output")])
def test_a_checkpoint_runs_at_its_size_as_its_numbers_do(kinds: tuple[str, ...], tmp_path: Path):
  path, _ = checkpoint(tmp_path, *kinds)
  ours, plain = (lynx_jax.load(path, dtype="float32", weights=how) for how in (None, "float"))
  held = packed(ours)
  assert {name.rpartition(".")[2] for name in held} == {"query", "key", "value", "output", "gate_up", "down"}
  files = load_file(path / "model.safetensors")
  stored = sum(tensor.nbytes for name, tensor in files.items() if ".weight_" in name or f"{name}_scale" in files)
  assert sum(map(bytes_of, held.values())) < 1.1 * stored
  tokens = random_tokens(MIXTRAL[2], rows=2, length=13)
  found, expected = (np.asarray(_forward(params, tokens)) for params in (ours, plain))
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_a_parameter_whose_pieces_are_packed_in_two_ways_is_dequantised(tmp_path: Path):
  def change(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor.bfloat16()}
    found = parts("w4 in 32" if ".w1." in name else "w8 in 32", tensor)[0]
    return {f"{name}{part}": each for part, each in found.items()}

  path, _ = quantised(copied(MIXTRAL[2], tmp_path), config("w4 in 32", "w8 in 32"), change)
  held = packed(lynx_jax.load(path))
  assert "layers.0.ffn.down" in held
  assert "layers.0.ffn.gate_up" not in held


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (config("nvfp4", format="marlin-24"), "format to 'marlin-24': not supported; supported: pack-quantized"),
    (config("nvfp4", sparsity_config={"format": "sparse-24-bitmask"}), "sparsity_config.format to 'sparse-24-bitmask'"),
    (config("nvfp4", transform_config={"config_groups": {"u": {}}}), "transform_config to 'rotations of activations'"),
    (config("nvfp4", config_groups={"W4A16": ["Linear"]}), "config_groups to"),
  ],
)
def test_settings_that_are_not_supported_are_named(settings: dict[str, Any], message: str):
  with pytest.raises(CheckpointError, match=message):
    format_of({"quantization_config": settings}, "here")


def layer(kind: str, **changes: Any) -> MemoryReader:
  found = arrays({f"{NAME}{part}": tensor for part, tensor in parts(kind, torch.randn(16, 128))[0].items()})
  changed = {f"{NAME}{part}": array for part, array in changes.items()}
  return MemoryReader({name: array for name, array in (found | changed).items() if array is not None})


@pytest.mark.parametrize(
  ("kind", "changes", "message"),
  [
    ("w4 in 32", {"_scale": None}, rf"{NAME}_packed has no {NAME}_scale beside it"),
    ("w4 in 32", {"_packed": None}, rf"{NAME}_scale has no {NAME}_packed or {NAME} beside it"),
    ("w4 in 32", {"_shape": None}, rf"{NAME}_packed has no {NAME}_shape beside it"),
    ("w4 in 32", {"_shape": np.array([16, 96])}, r"_packed has shape \[16, 16\], which does not hold \[16, 96\]"),
    ("w4 in 32", {"_scale": np.ones((16, 5), np.float32)}, "_scale has 5 scales for 128 inputs"),
    ("w4 in 32", {"_scale": np.ones((8, 4), np.float32)}, r"_scale has shape \[8, 4\], expected rows \[16\]"),
    ("nvfp4", {"_scale": np.ones((16, 5), np.uint8)}, r"_scale has shape \[16, 5\], expected \[16, 4\]"),
    ("nvfp4", {"_global_scale": np.ones(3, np.float32)}, r"_global_scale has shape \[3\], expected one number"),
  ],
)
def test_tensors_that_do_not_fit_are_named(kind: str, changes: dict[str, Any], message: str):
  form = format_of({"quantization_config": config(kind)}, "here")
  assert form is not None
  with pytest.raises(CheckpointError, match=message):
    form.packed(layer(kind, **changes))


def test_inputs_in_another_order_are_refused_when_they_are_read():
  form = format_of({"quantization_config": config("w4 in 32")}, "here")
  assert form is not None
  order = np.arange(128, dtype=np.int32) // 32
  one = form.packed(layer("w4 in 32", _g_idx=order))[NAME]
  assert one.read is not None
  assert isinstance(one.read(), QuantizedWeight)
  other = form.packed(layer("w4 in 32", _g_idx=order[::-1].copy()))[NAME]
  assert other.read is not None
  with pytest.raises(CheckpointError, match="actorder group: not supported"):
    other.read()
