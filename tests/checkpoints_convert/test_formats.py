"""Quantised weights, against a statement of each number by its bits, and through whole checkpoints."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors
from transformers.utils.quantization_config import Mxfp4Config

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import format_of
from checkpoints_convert.formats.fp8 import dequantise_fp8
from checkpoints_convert.formats.mxfp4 import MXFP4
from lynx_jax.models.checkpoints import convert, open_model
from tests.checkpoints_convert.exported import loaded_by_transformers
from tests.checkpoints_convert.memory_reader import MemoryReader
from tests.checkpoints_convert.quantised_files import (
  MXFP4_CONFIG,
  Tensors,
  blocks_of_fp8,
  fp8_config,
  gpt_oss_checkpoint,
  groups_of_4_bits,
  quantised,
)
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import MIXTRAL, OLMOE, QWEN3_MOE, Case, random_tokens, reference

FLOAT32 = np.dtype(np.float32)
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)


def fp8_value(byte: int) -> float:
  """A sign, 4 bits of exponent (bias 7), 3 of fraction; no infinities (arXiv 2209.05433, table 1)."""
  sign, exponent, fraction = -1.0 if byte >> 7 else 1.0, byte >> 3 & 15, byte & 7
  if exponent == 15 and fraction == 7:
    return math.nan
  return sign * (fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10))


def fp4_value(nibble: int) -> float:
  """A sign, 2 bits of exponent (bias 1), 1 of fraction (OCP Microscaling Formats 1.0, table 5)."""
  sign, exponent, fraction = -1.0 if nibble >> 3 else 1.0, nibble >> 1 & 3, nibble & 1
  return sign * (fraction / 2 if exponent == 0 else (2 + fraction) * 2.0 ** (exponent - 2))


def power(byte: int) -> float:
  """A power of two with bias 127; 255 is no number."""
  return math.nan if byte == 255 else 2.0 ** (byte - 127)


def dequantise_mxfp4(blocks: np.ndarray, scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """What a checkpoint of the tensors `x_blocks` and `x_scales` holds as `x`."""
  found = MXFP4().packed(MemoryReader({"x_blocks": blocks, "x_scales": scales}))["x"]
  numbers = found.numbers(dtype)
  assert numbers.shape == found.shape
  return numbers


def fp8_of(codes: np.ndarray, scales: np.ndarray, block: tuple[int, int]) -> np.ndarray:
  out = np.empty(codes.shape)
  for at in np.ndindex(*codes.shape):
    factor = scales[(*at[:-2], at[-2] // block[0], at[-1] // block[1])]
    out[at] = fp8_value(int(codes[at])) * float(factor)
  return out


def mxfp4_of(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
  *lead, rows, groups, _ = blocks.shape
  out = np.empty((*lead, groups * 32, rows))
  for at in np.ndindex(*lead, rows, groups, 32):
    *matrix, row, group, position = at
    byte = int(blocks[(*matrix, row, group, position // 2)])
    nibble = byte >> 4 if position % 2 else byte & 15
    out[(*matrix, group * 32 + position, row)] = fp4_value(nibble) * power(int(scales[(*matrix, row, group)]))
  return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_8_bit_float_is_what_its_bits_say(dtype: str):
  codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
  expected = np.array([fp8_value(byte) for byte in range(256)])
  for factor in (1.0, 0.5):
    found = dequantise_fp8(codes.view(FP8), np.full((1, 1), factor, np.float32), np.dtype(dtype))
    np.testing.assert_array_equal(found.ravel().astype(np.float64), factor * expected)
    assert (np.signbit(found.ravel()) == np.signbit(expected))[~np.isnan(expected)].all()


def test_every_pair_of_4_bit_floats_is_what_its_bits_say_under_every_scale():
  blocks = np.tile(np.arange(256, dtype=np.uint8).reshape(2, 8, 16), (256, 1, 1, 1))
  scales = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis], (256, 2, 8)).copy()
  expected = mxfp4_of(blocks, scales)
  with np.errstate(over="ignore"):
    expected = expected.astype(np.float32)
  for dtype in ("float32", "bfloat16"):
    found = dequantise_mxfp4(blocks, scales, np.dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(found, expected, err_msg=dtype)
    assert (np.signbit(found) == np.signbit(expected))[~np.isnan(expected)].all()


_LEAD = st.lists(st.integers(1, 3), max_size=2).map(tuple)


@hypothesis.given(_LEAD, st.integers(1, 40), st.integers(1, 40), st.integers(1, 17), st.integers(1, 17), st.data())
@hypothesis.settings(max_examples=60)
def test_blocks_of_8_bit_floats_of_any_shape(lead, rows, columns, high, wide, data):
  random = np.random.default_rng(data.draw(st.integers(0, 9)))
  codes = random.integers(0, 256, (*lead, rows, columns), np.uint8)
  scales = random.lognormal(size=(*lead, -(-rows // high), -(-columns // wide))).astype(np.float32)
  found = dequantise_fp8(codes.view(FP8), scales, FLOAT32, block=(high, wide))
  np.testing.assert_array_equal(found, fp8_of(codes, scales, (high, wide)).astype(np.float32))


def test_blocks_of_128_are_cut_short_at_the_edges():
  random = np.random.default_rng(0)
  codes = random.integers(0, 256, (130, 257), np.uint8)
  scales = random.lognormal(size=(2, 3)).astype(np.float32)
  expected = fp8_of(codes, scales, (128, 128))
  np.testing.assert_array_equal(dequantise_fp8(codes.view(FP8), scales, FLOAT32), expected.astype(np.float32))
  rounded = dequantise_fp8(codes.view(FP8), scales, np.dtype(ml_dtypes.bfloat16))
  once = expected.astype(np.float32).astype(ml_dtypes.bfloat16)
  np.testing.assert_array_equal(rounded.astype(np.float32), once.astype(np.float32))


@hypothesis.given(_LEAD, st.integers(1, 9), st.integers(1, 4), st.integers(0, 9))
@hypothesis.settings(max_examples=60)
def test_groups_of_4_bit_floats_of_any_shape(lead, rows, groups, seed):
  random = np.random.default_rng(seed)
  blocks = random.integers(0, 256, (*lead, rows, groups, 16), np.uint8)
  scales = random.integers(100, 150, (*lead, rows, groups), np.uint8)
  found = dequantise_mxfp4(blocks, scales, np.dtype(ml_dtypes.bfloat16))
  np.testing.assert_array_equal(found.astype(np.float64), mxfp4_of(blocks, scales))


def test_large_groups_go_in_parts(monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr("pallas_kernels.weights.widening._CHUNK", 100)
  random = np.random.default_rng(0)
  blocks, scales = random.integers(0, 256, (2, 7, 2, 16), np.uint8), random.integers(120, 130, (2, 7, 2), np.uint8)
  np.testing.assert_array_equal(dequantise_mxfp4(blocks, scales, FLOAT32), mxfp4_of(blocks, scales))


def test_4_bit_floats_are_those_of_transformers():
  random = np.random.default_rng(0)
  blocks = random.integers(0, 256, (3, 10, 4, 16), np.uint8)
  scales = random.integers(1, 250, (3, 10, 4), np.uint8)
  theirs = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales))
  ours = dequantise_mxfp4(blocks, scales, np.dtype(ml_dtypes.bfloat16))
  np.testing.assert_array_equal(ours.astype(np.float32), theirs.float().numpy())


FP8_CONFIG = fp8_config(24, 40)


def fp8_checkpoint(case: Case, directory: Path) -> tuple[Path, Tensors]:
  return quantised(copied(case, directory), FP8_CONFIG, blocks_of_fp8(24, 40))


def rebuilt(packed: Tensors) -> dict[str, np.ndarray]:
  """float32 weights that a packed fp8 checkpoint stands for."""
  weights = {}
  for name, tensor in packed.items():
    if name.endswith("_scale_inv"):
      continue
    if tensor.dtype == torch.float8_e4m3fn:
      codes, scales = tensor.view(torch.uint8).numpy(), packed[f"{name}_scale_inv"].numpy()
      weights[name] = fp8_of(codes, scales, tuple(FP8_CONFIG["weight_block_size"])).astype(np.float32)
    else:
      weights[name] = tensor.float().numpy()
  return weights


@pytest.mark.parametrize("case", [MIXTRAL[0], QWEN3_MOE[2]], ids=str)
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_a_checkpoint_with_block_scales_equals_the_one_it_stands_for(case: Case, dtype: str | None, tmp_path: Path):
  path, packed = fp8_checkpoint(case, tmp_path)
  plain = {name: torch.from_numpy(array) for name, array in rebuilt(packed).items()}
  if dtype is None:
    plain = {name: tensor.bfloat16() for name, tensor in plain.items()}
  other = copied(case, tmp_path / "plain")
  save_file(plain, other / "model.safetensors", metadata={"format": "pt"})
  assert_same_parameters(path, other, dtype or "bfloat16")


def assert_same_parameters(first: Path, second: Path, dtype: str) -> None:
  with open_model(first) as (_, one), open_model(second) as (_, two):
    wanted = one.dtype if dtype == "bfloat16" else np.dtype(dtype)
    assert wanted.name == dtype
    found, expected = dict(one.parameters(wanted)), dict(two.parameters(wanted))
  assert found.keys() == expected.keys()
  for name, array in found.items():
    assert np.asarray(array).tobytes() == np.asarray(expected[name]).tobytes(), name


def test_it_is_exported_unquantised_as_a_directory_that_transformers_loads(tmp_path: Path):
  case = MIXTRAL[0]
  path, packed = fp8_checkpoint(case, tmp_path)
  convert(path, tmp_path / "hf", dtype="float32", to="hf", weights="float")
  assert "quantization_config" not in json.loads((tmp_path / "hf" / "config.json").read_text())
  exported = load_file(tmp_path / "hf" / "model.safetensors")
  for name, array in rebuilt(packed).items():
    np.testing.assert_array_equal(exported[name].numpy(), array, err_msg=name)
  model = loaded_by_transformers(tmp_path / "hf")
  tokens = random_tokens(case, rows=2, length=9)
  with torch.no_grad():
    theirs = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  ours = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.load(path, dtype="float32"), tokens))
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_8_bit_floats_without_scales_are_read_as_they_are(tmp_path: Path):
  def cast(name: str, tensor: torch.Tensor) -> Tensors:
    return {name: tensor.to(torch.float8_e4m3fn) if name.endswith("proj.weight") else tensor.bfloat16()}

  path, packed = quantised(copied(MIXTRAL[0], tmp_path), None, cast)
  assert {tensor.dtype for tensor in packed.values()} == {torch.float8_e4m3fn, torch.bfloat16}
  other = copied(MIXTRAL[0], tmp_path / "plain")
  save_file({name: tensor.bfloat16() for name, tensor in packed.items()}, other / "model.safetensors")
  assert_same_parameters(path, other, "bfloat16")


def mxfp4_checkpoint(directory: Path) -> tuple[Path, Tensors]:
  """OLMoE in transformers' fused spelling, its experts in 4 bits."""
  path = copied(OLMOE[1], directory)
  reference(OLMOE[1]).save_pretrained(path, save_original_format=False)
  return quantised(path, MXFP4_CONFIG, groups_of_4_bits)


def test_a_checkpoint_of_4_bit_experts_equals_the_one_it_stands_for(tmp_path: Path):
  path, packed = mxfp4_checkpoint(tmp_path)
  plain = {name: tensor for name, tensor in packed.items() if not name.endswith(("_blocks", "_scales"))}
  for name in packed:
    if name.endswith("_blocks"):
      base = name.removesuffix("_blocks")
      values = mxfp4_of(packed[name].numpy(), packed[f"{base}_scales"].numpy())
      plain[base] = torch.from_numpy(values).bfloat16()
  assert len(plain) == len(packed) - 4
  other = copied(OLMOE[1], tmp_path / "plain")
  save_file({name: tensor.contiguous() for name, tensor in plain.items()}, other / "model.safetensors")
  for dtype in ("bfloat16", "float32"):
    assert_same_parameters(path, other, dtype)


def tampered(packed: Tensors, path: Path, change: Callable[[Tensors], None]) -> Path:
  change(packed)
  save_file(packed, path / "model.safetensors", metadata={"format": "pt"})
  return path


Q = "model.layers.1.self_attn.q_proj.weight"
DOWN = "model.layers.0.mlp.experts.down_proj"


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop(f"{Q}_scale_inv"), rf"{Q} has no {Q}_scale_inv beside it"),
    (lambda t: t.pop(Q), rf"{Q}_scale_inv has no {Q} beside it"),
    (
      lambda t: t.update({f"{Q}_scale_inv": torch.ones(2, 2)}),
      rf"{Q}_scale_inv has shape \[2, 2\], expected \[3, 2\], one",
    ),
    (lambda t: t.update({Q: t[Q].bfloat16()}), rf"{Q} has type BF16, expected F8_E4M3"),
    (
      lambda t: t.update({f"{Q}_scale_inv": t[f"{Q}_scale_inv"].to(torch.uint8)}),
      rf"{Q}_scale_inv has type U8, expected BF16 or F16 or F32",
    ),
    (lambda t: t.update({"model.norm.weight": torch.ones(64).to(torch.float8_e4m3fn)}), "norm.weight has no model.nor"),
    (lambda t: t.update({Q: t[Q][:60].clone()}), rf"{Q} \(expected \[64, 64\], found \[60, 64\]\)"),
    (lambda t: t.update({f"{Q}.extra": torch.ones(3)}), rf"1 tensor that nothing uses: {Q}\.extra"),
    (lambda t: t.update({"x": torch.ones(3).to(torch.int8)}), "1 tensor that nothing uses: x"),
  ],
)
def test_block_scales_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Tensors], None], message: str):
  path, packed = fp8_checkpoint(MIXTRAL[0], tmp_path)
  with pytest.raises(CheckpointError, match=message) as raised, open_model(tampered(packed, path, change)):
    pass
  assert str(path) in str(raised.value)


def reshaped(name: str, *shape: int) -> Callable[[Tensors], None]:
  return lambda t: t.update({name: torch.zeros(shape, dtype=torch.uint8)})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda t: t.pop(f"{DOWN}_scales"), f"{DOWN}_blocks has no {DOWN}_scales beside it"),
    (lambda t: t.pop(f"{DOWN}_blocks"), f"{DOWN}_scales has no {DOWN}_blocks beside it"),
    (lambda t: t.update({DOWN: torch.ones(2)}), f"{DOWN} is there a second time, as {DOWN}_blocks and"),
    (reshaped(f"{DOWN}_blocks", 16, 32, 2, 8), r"_blocks has shape \[16, 32, 2, 8\], expected rows of groups of 16"),
    (reshaped(f"{DOWN}_scales", 16, 32, 3), r"_scales has shape \[16, 32, 3\], expected \[16, 32, 2\]"),
    (lambda t: t.update({f"{DOWN}_scales": t[f"{DOWN}_scales"].float()}), f"{DOWN}_scales has type F32, expected U8"),
    (lambda t: t.update({"odd_scales": torch.zeros(2, dtype=torch.uint8)}), "odd_scales has no odd_blocks beside it"),
  ],
)
def test_4_bit_groups_that_do_not_fit_are_named(tmp_path: Path, change: Callable[[Tensors], None], message: str):
  path, packed = mxfp4_checkpoint(tmp_path)
  with pytest.raises(CheckpointError, match=message), open_model(tampered(packed, path, change)):
    pass


def test_scales_without_a_quantization_config_are_surplus(tmp_path: Path):
  path, _ = quantised(copied(MIXTRAL[0], tmp_path), None, blocks_of_fp8(24, 40))
  with pytest.raises(CheckpointError, match=r"tensors that nothing uses: .*_scale_inv"), open_model(path):
    pass


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"quant_method": "hqq", "bits": 4}, "quant_method to 'hqq': not supported; supported: .*fp8, .*mxfp4"),
    ({}, "quant_method to None"),
    (FP8_CONFIG | {"fmt": "e5m2"}, "fmt to 'e5m2': not supported; supported: e4m3 or float8_e4m3fn"),
    (FP8_CONFIG | {"weight_block_size": 128}, r"weight_block_size to 128.*such as \[128, 128\]"),
    (FP8_CONFIG | {"weight_block_size": [128, 0]}, r"weight_block_size to \[128, 0\]"),
  ],
)
def test_a_format_that_is_not_supported_is_named(tmp_path: Path, settings: dict[str, Any], message: str):
  with pytest.raises(CheckpointError, match=f"here: config.json sets quantization_config.{message}"):
    format_of({"quantization_config": settings}, "here")
  path, _ = quantised(copied(MIXTRAL[0], tmp_path), settings, lambda name, tensor: {name: tensor})
  with pytest.raises(CheckpointError, match=message):
    lynx_jax.load(path)


def test_the_blocks_are_128_wide_unless_config_says_otherwise():
  form = format_of({"quantization_config": {"quant_method": "fp8"}}, "here")
  assert form is not None
  held = form.packed(MemoryReader({"x": np.zeros((130, 256), FP8), "x_scale_inv": np.ones((2, 2), FLOAT32)}))["x"].held
  assert held is not None
  assert (held.form.code, held.form.group) == ("e4m3", 128)


def test_gpt_oss_in_4_bits_is_what_transformers_makes_of_it(tmp_path: Path):
  path = gpt_oss_checkpoint(tmp_path)
  dequantised = Mxfp4Config(dequantize=True)
  model = transformers.AutoModelForCausalLM.from_pretrained(path, quantization_config=dequantised, dtype="float32")
  tokens = np.random.default_rng(0).integers(3, 64, (2, 9), dtype=np.int32)
  with torch.no_grad():
    theirs = model(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
  ours = np.asarray(jax.jit(lynx_jax.forward)(lynx_jax.load(path, dtype="float32"), tokens))
  assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
