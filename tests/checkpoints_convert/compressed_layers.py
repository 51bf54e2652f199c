"""Layers that the compressed-tensors package packs, and checkpoints of them."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import dequantize
from compressed_tensors.quantization.utils import calculate_qparams

from tests.checkpoints_convert.quantised_files import Tensors, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL


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
  "mxfp8": ("mxfp8-quantized", FP8 | {"strategy": "group", "group_size": 32}, "e4m3_g32"),
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
  elif kind in ("mxfp4", "mxfp8"):
    largest = 2 if kind == "mxfp4" else 8
    state["weight_scale"] = torch.exp2(torch.floor(torch.log2(torch.maximum(-least, most))) - largest)
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


def checkpoint(directory: Path, *kinds: str) -> tuple[Path, Tensors]:
  """Mixtral whose layers are packed in several ways, by turns of their number; routers and the head are not."""

  def change(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor.bfloat16()}
    layer = int(name.split(".")[2])
    return {f"{name}{part}": each for part, each in parts(kinds[layer % len(kinds)], tensor)[0].items()}

  path = copied(MIXTRAL[2], directory)
  return quantised(path, config(*kinds, ignore=["lm_head", "re:.*gate$"]), change)
