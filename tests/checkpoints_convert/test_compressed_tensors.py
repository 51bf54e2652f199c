"""Weights that the compressed-tensors package packs, against what it unpacks."""

from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import format_of
from lynx_jax.models.checkpoints import convert
from lynx_jax.models.sizes import bytes_of
from pallas_kernels import QuantizedWeight
from pallas_kernels.weights.widening import widened
from tests.checkpoints_convert.memory_reader import MemoryReader
from tests.checkpoints_convert.quantised_files import Tensors, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL, random_tokens
from tests.held import packed

FLOAT32 = np.dtype(np.float32)
NAME = "model.layers.0.mlp.down_proj.weight"


def scheme(**weights: Any) -> QuantizationScheme:
  return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))


W4 = {"num_bits": 4, "strategy": "group", "group_size": 32}
FP8 = {"num_bits": 8, "type": "float"}
FP4 = {"num_bits": 4, "type": "float"}
# The packing, the weights' settings, and the form that holds them.
SCHEMES: dict[str, tuple[str, dict[str, Any], str]] = {
  "w4 in 32": ("pack-quantized", W4, "int4_g32"),
  "w4 in 64, asymmetric": ("pack-quantized", W4 | {"group_size": 64, "symmetric": False}, "int4_g64"),
  "w4 in 32, asymmetric": ("pack-quantized", W4 | {"symmetric": False}, "int4_g32"),
  "w4 an output": ("pack-quantized", W4 | {"strategy": "channel", "group_size": None}, "int4"),
  "w8 in 32": ("pack-quantized", W4 | {"num_bits": 8}, "int8_g32"),
  "w8 an output, asymmetric": ("pack-quantized", {"num_bits": 8, "strategy": "channel", "symmetric": False}, "int8"),
  "int8 an output": ("int-quantized", {"num_bits": 8, "strategy": "channel"}, "int8"),
  "int8 a matrix": ("int-quantized", {"num_bits": 8, "strategy": "tensor"}, "int8"),
  "fp8 an output": ("float-quantized", FP8 | {"strategy": "channel"}, "e4m3"),
  "fp8 a matrix": ("float-quantized", FP8 | {"strategy": "tensor"}, "e4m3"),
  "fp8 in blocks": ("float-quantized", FP8 | {"strategy": "block", "block_structure": [16, 32]}, "e4m3_g32"),
  "nvfp4": ("nvfp4-pack-quantized", FP4 | {"strategy": "tensor_group", "group_size": 16}, "e2m1_g16"),
  "mxfp4": ("mxfp4-pack-quantized", FP4 | {"strategy": "group", "group_size": 32}, "e2m1_g32"),
}  # fmt: skip


def ranges(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
  """The least and the largest number of what shares a scale, in the shape of scales."""
  rows, columns = weight.shape
  match args.strategy:
    case "tensor":
      return weight.min().reshape(1), weight.max().reshape(1)
    case "block":
      high, wide = args.block_structure or [1, 1]
      blocks = weight.reshape(rows // high, high, columns // wide, wide).transpose(1, 2).flatten(2)
      return blocks.amin(-1), blocks.amax(-1)
    case _:
      groups = weight.reshape(rows, -1, args.group_size or columns)
      return groups.amin(-1), groups.amax(-1)


def parts(kind: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
  """A layer's tensors as the package packs them, without the prefix `weight`, and its numbers as it unpacks them."""
  how, weights, _ = SCHEMES[kind]
  given = scheme(**weights)
  assert given.weights is not None
  state = {"weight": weight}
  least, most = ranges(weight, given.weights)
  if kind == "nvfp4":
    state["weight_global_scale"] = (448 * 6 / weight.abs().max()).reshape(1)
    state["weight_scale"] = (torch.maximum(-least, most) / 6 * state["weight_global_scale"]).clamp(1e-3, 448)
    state["weight_scale"] = state["weight_scale"].to(torch.float8_e4m3fn).float()
  elif kind == "mxfp4":
    state["weight_scale"] = torch.exp2(torch.floor(torch.log2(torch.maximum(-least, most))) - 2)
  else:
    state["weight_scale"], state["weight_zero_point"] = calculate_qparams(least, most, given.weights)
  compressor: Any = BaseCompressor.get_value_from_registry(how)
  stored = compressor.compress(state, given)
  numbers = compressor.decompress(stored, given)["weight"].float()
  if kind == "nvfp4":
    # The package's own are rounded to bfloat16 twice.
    rows, columns = weight.shape
    pairs = unpack_fp4_from_uint8(stored["weight_packed"], rows, columns).float()
    narrow, factor = stored["weight_scale"].float(), stored["weight_global_scale"]
    exact = dequantize(pairs, narrow, args=given.weights, dtype=torch.float32, global_scale=factor)
    assert (exact - numbers).abs().max() < 0.01 * exact.abs().max()
    numbers = exact
  return {name.removeprefix("weight"): tensor.contiguous() for name, tensor in stored.items()}, numbers


def config(*kinds: str, **more: Any) -> dict[str, Any]:
  """What config.json says of such layers."""
  groups = {
    f"group_{number}": {"targets": ["Linear"], "weights": scheme(**SCHEMES[kind][1]).weights.model_dump(mode="json")}  # type: ignore[union-attr]
    for number, kind in enumerate(kinds)
  }
  formats = {SCHEMES[kind][0] for kind in kinds}
  how = next(iter(formats)) if len(formats) == 1 else "mixed-precision"
  settings = {"quant_method": "compressed-tensors", "format": how, "config_groups": groups, "ignore": ["lm_head"]}
  return settings | more


def arrays(tensors: Tensors) -> dict[str, np.ndarray]:
  """Tensors as NumPy's, 8-bit floats too."""
  narrow = {torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn, torch.bfloat16: ml_dtypes.bfloat16}
  return {
    name: tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy().view(narrow[tensor.dtype])
    if tensor.dtype in narrow
    else tensor.numpy()
    for name, tensor in tensors.items()
  }


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


def checkpoint(directory: Path, *kinds: str) -> tuple[Path, Tensors]:
  """Mixtral whose layers are packed in several ways, by turns of their number; routers and the head are not."""

  def change(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor.bfloat16()}
    layer = int(name.split(".")[2])
    return {f"{name}{part}": each for part, each in parts(kinds[layer % len(kinds)], tensor)[0].items()}

  path = copied(MIXTRAL[2], directory)
  return quantised(path, config(*kinds, ignore=["lm_head", "re:.*gate$"]), change)


_forward = jax.jit(lynx_jax.forward)


@pytest.mark.parametrize("kinds", [("w4 in 32", "nvfp4"), ("w4 in 32, asymmetric", "int8 an output")])
def test_a_checkpoint_runs_at_its_size_as_its_numbers_do(kinds: tuple[str, ...], tmp_path: Path):
  path, _ = checkpoint(tmp_path, *kinds)
  ours, plain = (lynx_jax.load(path, dtype="float32", weights=how) for how in (None, "float"))
  held = packed(ours)
  assert {name.rpartition(".")[2] for name in held} == {"query", "key", "value", "output", "gate_up", "down"}
  with pytest.raises(CheckpointError, match="weights of compressed-tensors are read and not written: convert with"):
    convert(path, tmp_path / "out", to="hf")
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
  with pytest.raises(ValueError, match="to is 'hf': such quantised weights are written with 'orbax' only"):
    convert(path, tmp_path / "out", to="hf")


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
