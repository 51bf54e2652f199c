"""Weights written as layers of compressed-tensors: its package unpacks them, and reading them gives the same bytes."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme
from compressed_tensors.utils.match import match_name
from safetensors.torch import load_file

import lynx_jax
from checkpoints_convert.formats import Packed, format_of
from checkpoints_convert.formats.compressed_tensors import CompressedTensors
from checkpoints_convert.formats.compressed_writing import describe
from checkpoints_convert.packed_rules import Piece
from lynx_jax.models.checkpoints import convert
from pallas_kernels import Form, QuantizedWeight
from pallas_kernels.weights.widening import widened
from tests.checkpoints_convert import test_words
from tests.checkpoints_convert.compressed_layers import SCHEMES, arrays, checkpoint, config, parts
from tests.checkpoints_convert.gguf_cases import GGUF_CASES
from tests.checkpoints_convert.gguf_writing import everything, write_gguf
from tests.checkpoints_convert.k_quants import Quant
from tests.checkpoints_convert.memory_reader import MemoryReader
from tests.checkpoints_convert.quantised_files import Tensors, blocks_of_fp8, fp8_config, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL, OLMOE, QWEN3_MOE
from tests.families.cases import checkpoint as original
from tests.heard import heard
from tests.held import packed

FLOAT32 = np.dtype(np.float32)
NAME = "model.layers.0.mlp.down_proj.weight"
LEAVES = ("values", "scales", "zeros", "gains")


def as_torch(array: np.ndarray) -> torch.Tensor:
  narrow = {np.dtype(ml_dtypes.float8_e4m3fn): torch.float8_e4m3fn, np.dtype(ml_dtypes.bfloat16): torch.bfloat16}
  whole = np.ascontiguousarray(array)
  if whole.dtype not in narrow:
    return torch.from_numpy(whole)
  return torch.from_numpy(whole.view({1: np.uint8, 2: np.int16}[whole.itemsize])).view(narrow[whole.dtype])


def unpacked(layer: dict[str, torch.Tensor], scheme: QuantizationScheme) -> np.ndarray:
  """The numbers that the package makes of a layer's tensors, in float32."""
  layer = {f"weight{name}": tensor for name, tensor in layer.items()}
  if layer["weight_scale"].dtype in (torch.float16, torch.bfloat16):
    layer["weight_scale"] = layer["weight_scale"].float()
  if "weight_zero_point" in layer:
    # The package turns them, and needs strides of 1 where an axis has one entry, which contiguous() does not give.
    turned = layer["weight_zero_point"].T
    layer["weight_zero_point"] = turned.reshape(-1).view(turned.shape).T
  assert scheme.format is not None
  compressor: Any = BaseCompressor.get_value_from_registry(str(getattr(scheme.format, "value", scheme.format)))
  return compressor.decompress(layer, scheme)["weight"].float().numpy()


def assert_same(found: QuantizedWeight, expected: QuantizedWeight, name: str = "") -> None:
  assert (found.form, found.matrix) == (expected.form, expected.matrix), name
  for leaf in LEAVES:
    one, other = getattr(found, leaf), getattr(expected, leaf)
    assert (one is None) == (other is None), (name, leaf)
    if one is not None:
      assert (one.shape, one.dtype) == (other.shape, other.dtype), (name, leaf)
      assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), (name, leaf)


def read(tensors: dict[str, np.ndarray], settings: dict[str, Any], name: str = NAME) -> Packed:
  form = format_of({"quantization_config": settings}, "here")
  assert form is not None
  return form.packed(MemoryReader(tensors))[name]


def weight_of(one: Packed) -> QuantizedWeight:
  assert one.read is not None
  return one.read()


@pytest.mark.parametrize("kind", SCHEMES)
@pytest.mark.parametrize("shape", [(16, 128), (33, 192)])
def test_a_layer_is_written_as_the_package_packed_it(kind: str, shape: tuple[int, int]):
  if kind == "fp8 in blocks" and shape[0] % 16:
    pytest.skip("the package packs whole blocks only")
  torch.manual_seed(shape[0])
  tensors = arrays({f"{NAME}{part}": tensor for part, tensor in parts(kind, torch.randn(*shape))[0].items()})
  settings = config(kind)
  form = format_of({"quantization_config": settings}, "here")
  assert isinstance(form, CompressedTensors)
  piece = Piece(weight_of(read(tensors, settings)))
  assert form.objection(NAME, piece) is None
  written = form.written(NAME, piece)
  said = form.written_shapes(NAME, piece)
  for name, array in written.items():
    assert said[name] == (array.shape, array.dtype), name
    # One scale of 8-bit whole numbers is float32 in memory whatever it is in the file.
    expected = (
      tensors[name].astype(array.dtype) if name.endswith("_scale") and array.dtype == FLOAT32 else tensors[name]
    )
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype), name
    if name.endswith("_global_scale"):
      np.testing.assert_allclose(array, expected, rtol=2**-23)
    else:
      assert array.tobytes() == expected.tobytes(), name
  # The package keeps zeros that are all 0 beside whole numbers and floats of 8 bits.
  left_out = tensors.keys() - written.keys()
  assert written.keys() <= tensors.keys()
  assert all(name.endswith("_zero_point") and not tensors[name].astype(FLOAT32).any() for name in left_out)


RANDOM = np.random.default_rng(0)
# Weights that other formats and the package's own writers give: the form, the dtypes of scales and zeros, gains.
HELD: dict[str, tuple[Form, Any, Any, bool]] = {
  "gptq, awq": (Form(code="int4", group=32), np.float16, np.uint8, False),
  "Q4_0": (Form(code="int4", group=32), np.float16, None, False),
  "an output": (Form(code="int4"), np.float16, np.uint8, False),
  "8 bits with zeros": (Form(code="int8", group=16), np.float16, np.int8, False),
  "Q8_0": (Form(code="int8", group=32), np.float16, None, False),
  "int8": (Form(code="int8"), np.float32, None, False),
  "fp8": (Form(code="e4m3"), ml_dtypes.bfloat16, None, False),
  "fp8 in groups": (Form(code="e4m3", group=48), np.float32, None, False),
  "mxfp8": (Form(code="e4m3", group=32), ml_dtypes.float8_e8m0fnu, None, False),
  "mxfp4": (Form(code="e2m1", group=32), ml_dtypes.float8_e8m0fnu, None, False),
  "nvfp4": (Form(code="e2m1", group=16), ml_dtypes.float8_e4m3fn, None, True),
}


def random_weight(kind: str, outs: int, inner: int) -> QuantizedWeight:
  form, scales, zeros, gains = HELD[kind]
  groups = (outs, form.groups(inner))
  values = RANDOM.integers(0, 256, form.values_shape((outs, inner)), np.uint8)
  if form.code == "e4m3":
    values = np.where(values & 127 == 127, 0, values).astype(np.uint8)
  if form.code == "int8":
    values = values.view(np.int8)
  zero = (
    None if zeros is None else RANDOM.integers(0, 16 if form.bits == 4 else 256, groups).astype(np.uint8).view(zeros)
  )
  # 5 is 1 / 0.2 in float32, so a divisor gives it.
  return QuantizedWeight(
    values=values,
    scales=(2.0 ** RANDOM.integers(-3, 4, groups)).astype(scales),
    zeros=zero,
    gains=np.full((outs, 1), 5, np.float32) if gains else None,
    form=form,
    matrix=(outs, inner),
  )


@pytest.mark.parametrize("kind", HELD)
def test_what_other_files_hold_becomes_a_layer_that_the_package_unpacks(kind: str):
  weight = random_weight(kind, 40, 96)
  form = CompressedTensors(())
  assert form.objection(NAME, Piece(weight)) is None
  scheme = form.scheme(weight)
  settings = describe({NAME: scheme}, ["model.layers.0.mlp.gate.weight"])
  parsed = QuantizationConfig.model_validate(settings)
  (group,) = parsed.config_groups.values()
  assert isinstance(group, QuantizationScheme)
  written = form.written(NAME, Piece(weight))
  again = weight_of(read(written, settings))
  assert_same(again, weight)
  theirs = unpacked({name.removeprefix(NAME): as_torch(array) for name, array in written.items()}, group)
  ours = widened(weight, FLOAT32)
  # The package's 4-bit floats are rounded to bfloat16 on the way.
  tolerance = 2**-7 if weight.form.code == "e2m1" else 2**-20
  np.testing.assert_allclose(theirs, ours, rtol=0, atol=tolerance * np.abs(ours).max())


@pytest.mark.parametrize(
  ("weight", "swapped", "why"),
  [
    (random_weight("Q8_0", 32, 64), True, "holds matrices of layers, and not several in one tensor"),
    (
      dataclasses.replace(random_weight("gptq, awq", 32, 64), zeros=np.ones((32, 2), np.float16)),
      False,
      "no int4_g32 weights with scales of float16 and zeros of float16",
    ),
    (
      dataclasses.replace(random_weight("int8", 32, 64), gains=np.ones((32, 1), np.float32)),
      False,
      "no int8 weights with scales of float32 and gains of float32",
    ),
  ],
)
def test_what_no_layer_holds_is_named(weight: QuantizedWeight, swapped: bool, why: str):
  found = CompressedTensors(()).objection(NAME, Piece(weight, swapped))
  assert found is not None
  assert why in found


def test_groups_name_layers_by_few_patterns():
  eight, four = (CompressedTensors(()).scheme(random_weight(kind, 32, 64)) for kind in ("int8", "Q4_0"))
  experts = [f"model.layers.{n}.mlp.experts.{e}.up_proj.weight" for n in range(3) for e in range(12)]
  odd = {f"model.layers.{n}.self_attn.q_proj.weight": four if n == 1 else eight for n in range(3)}
  routers = [f"model.layers.{n}.mlp.gate.weight" for n in range(3)]
  found = describe({**dict.fromkeys(experts, four), **odd}, [*routers, "model.embed_tokens.weight"])
  targets = {group["weights"]["num_bits"]: group["targets"] for group in found["config_groups"].values()}
  assert targets == {
    4: [r"re:model\.layers\.\d+\.mlp\.experts\.\d+\.up_proj$", "model.layers.1.self_attn.q_proj"],
    8: ["model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj"],
  }
  assert found["ignore"] == [r"re:model\.layers\.\d+\.mlp\.gate$", "model.embed_tokens", "lm_head"]
  assert found["format"] == "pack-quantized"


def fp8_rows(name: str, tensor: torch.Tensor) -> Tensors:
  """8-bit floats with one scale an output."""
  if not is_linear(name):
    return {name: tensor.bfloat16()}
  scale = tensor.abs().amax(dim=1, keepdim=True) / 448
  return {name: (tensor / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def gguf_file(kind: str, directory: Path) -> Path:
  """A file with matrices of one type; of MXFP4 only experts are."""
  path, chosen = directory / "model.gguf", everything(Quant[kind])
  if kind == "MXFP4":
    (case,) = (case for case in GGUF_CASES if case.family == "gpt_oss")
    write_gguf(
      path, original(case), lambda name, array: chosen(name, array) if name.endswith("exps.weight") else Quant.F32
    )
  else:
    write_gguf(path, original(QWEN3_MOE[1]), chosen)
  return path


def source(kind: str, folder: Path) -> Path:
  """A checkpoint of quantised weights."""
  if kind in test_words.GPTQ or kind in test_words.AWQ:
    return test_words.files(kind, folder)[0]
  if kind in ("int8", "int4"):
    convert(original(OLMOE[0]), folder / "own", weights=kind)
    return folder / "own"
  if kind == "fp8 rows":
    settings = {"quant_method": "fp8", "weight_block_size": None}
    return quantised(copied(MIXTRAL[0], folder / "fp8"), settings, fp8_rows)[0]
  if kind == "several":
    return checkpoint(folder / "several", "nvfp4", "w4 in 32, asymmetric")[0]
  return gguf_file(kind, folder)


KINDS = ["4 bits with zeros", "8 bits", "awq", "int8", "int4", "fp8 rows", "several", "Q4_0", "MXFP4"]


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_gives_the_same_bytes(kind: str, tmp_path: Path):
  first = source(kind, tmp_path)
  with heard() as lines:
    convert(first, tmp_path / "orbax")
    convert(first, tmp_path / "hf", to="hf")
    convert(tmp_path / "orbax", tmp_path / "back", to="hf")
  assert all("rows of it are looked up" in line for line in lines), lines
  expected = packed(lynx_jax.load(first))
  tied = [name for name in expected if name == "embedding"]
  assert expected
  for made in ("hf", "back"):
    found = packed(lynx_jax.load(tmp_path / made))
    assert found.keys() == expected.keys() - tied
    for name, one in found.items():
      assert_same(one, expected[name], name)
  assert_described(tmp_path / "hf")


def assert_described(directory: Path) -> None:
  """config.json names one group for each packed layer and none for others; the package unpacks the layers so."""
  settings = json.loads((directory / "config.json").read_text())["quantization_config"]
  if settings["quant_method"] == "mxfp4":
    return
  tensors = load_file(directory / "model.safetensors")
  parsed = QuantizationConfig.model_validate(settings)
  schemes = [one for one in parsed.config_groups.values() if isinstance(one, QuantizationScheme)]
  ignored = functools.partial(named, parsed.ignore or [])
  numbers = plain_numbers(directory)
  count = 0
  for scale in (name for name in tensors if name.endswith("_scale") and "global" not in name):
    weight = scale.removesuffix("_scale")
    module = weight.removesuffix(".weight")
    assert not ignored(module)
    if len(schemes) > 1 and not any(scheme.targets == ["Linear"] for scheme in schemes):
      found = [scheme for scheme in schemes if named(scheme.targets, module)]
      assert len(found) == 1, module
    elif len(schemes) == 1:
      found = schemes
    else:
      continue
    scheme = found[0].model_copy(update={"format": found[0].format or settings["format"]})
    assert scheme.weights is not None
    if numbers[weight].shape[1] % (scheme.weights.group_size or 1):
      continue  # The package unpacks whole groups only.
    layer = {name.removeprefix(weight): tensor for name, tensor in tensors.items() if name.startswith(weight)}
    theirs, ours = unpacked(layer, scheme), numbers[weight]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=2**-20 * np.abs(ours).max(), err_msg=weight)
    count += 1
  plain = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight") and tensors[name].ndim > 1]
  plain = [name for name in plain if f"{name}.weight_scale" not in tensors]
  assert all(ignored(name) or name.endswith("embed_tokens") for name in plain), plain
  assert count or len(schemes) > 1


def named(patterns: list[str], module: str) -> bool:
  return any(match_name(module, pattern) for pattern in patterns)


def plain_numbers(directory: Path) -> dict[str, np.ndarray]:
  """The numbers of every tensor, as converting to plain ones writes them."""
  out = directory.with_name(f"{directory.name}-plain")
  convert(directory, out, to="hf", weights="float", dtype="float32")
  return {name: tensor.numpy() for name, tensor in load_file(out / "model.safetensors").items()}


def test_what_is_written_as_plain_numbers_is_said_aloud(tmp_path: Path):
  path, _ = quantised(copied(QWEN3_MOE[3], tmp_path / "fp8"), fp8_config(32, 20), blocks_of_fp8(32, 20))
  for to in ("hf", "orbax"):
    with heard() as said:
      convert(path, tmp_path / to, to=to)
    assert len(said) == 1
    assert "are written as plain numbers: its scales are for blocks of 20 inputs, which is no multiple of 16" in said[0]
  with heard() as said:
    assert not packed(lynx_jax.load(path))
  assert len(said) == 1
  assert "are held as plain numbers: its scales are for blocks of 20 inputs" in said[0]
  with heard() as said:
    assert not packed(lynx_jax.load(tmp_path / "hf"))
    lynx_jax.load(path, weights="float")
  assert not said
  assert "quantization_config" not in json.loads((tmp_path / "hf" / "config.json").read_text())


def test_pieces_that_are_packed_in_two_ways_are_written_as_plain_numbers(tmp_path: Path):
  def change(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor.bfloat16()}
    found = parts("w4 in 32" if ".w1." in name else "w8 in 32", tensor)[0]
    return {f"{name}{part}": each for part, each in found.items()}

  path, _ = quantised(copied(MIXTRAL[2], tmp_path / "mixed"), config("w4 in 32", "w8 in 32"), change)
  with heard() as said:
    convert(path, tmp_path / "hf", to="hf")
  assert any("it belongs to tensors that are quantised in other ways" in line for line in said)
  one, other = (packed(lynx_jax.load(where)) for where in (path, tmp_path / "hf"))
  assert one.keys() == other.keys()
  assert "layers.0.ffn.gate_up" not in one
  assert jax.tree.all(jax.tree.map(lambda first, second: bool((first == second).all()), one, other))
  assert_described(tmp_path / "hf")
