"""GPTQ, AWQ and AutoRound: numbers of few bits in 32-bit words, packed here as their formats say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import lynx_jax
from checkpoints_convert.errors import CheckpointError
from lynx_jax.models.checkpoints import convert
from pallas_kernels import QuantizedWeight, dequantize
from tests.checkpoints_convert.quantised_files import Tensors, is_linear, quantised
from tests.checkpoints_convert.tampering import copied
from tests.families.cases import OLMOE, QWEN3_MOE, random_tokens

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_forward = jax.jit(lynx_jax.forward)


def words(numbers: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> torch.Tensor:
  """Words along the last axis: the number at place `order[j]` of a word's in bits `bits * j`."""
  in_word = 32 // bits
  places = range(in_word) if order is None else order
  filled = np.concatenate([numbers, np.zeros((len(numbers), -numbers.shape[1] % in_word), numbers.dtype)], axis=1)
  packed = np.zeros((len(filled), filled.shape[1] // in_word), np.uint64)
  for j, place in enumerate(places):
    packed |= filled[:, place::in_word].astype(np.uint64) << np.uint64(bits * j)
  return torch.from_numpy(packed.astype(np.uint32).view(np.int32).copy())


class Layer:
  """A linear layer's numbers [O, I], zeros and scales [O, G], and the group of each input."""

  def __init__(self, name: str, shape: torch.Size, *, bits: int, group: int, symmetric: bool, ordered: bool):
    outs, inner = shape
    random = np.random.default_rng(sum(name.encode()))
    groups, most = -(-inner // group) if group > 0 else 1, 1 << bits
    self.bits, self.symmetric = bits, symmetric
    self.numbers = random.integers(0, most, (outs, inner))
    self.zeros = np.full((outs, groups), most // 2) if symmetric else random.integers(1, most, (outs, groups))
    self.scales = random.uniform(0.5, 1, (outs, groups)).astype(np.float16) * np.float16(0.6 / most)
    self.groups = np.arange(inner) // (group if group > 0 else inner)
    if ordered:
      self.groups = random.permutation(self.groups)

  @property
  def weight(self) -> torch.Tensor:
    """What it means, in float32."""
    number = self.numbers - self.zeros[:, self.groups]
    return torch.from_numpy((number * self.scales[:, self.groups].astype(np.float32)).astype(np.float32))

  def gptq(self, base: str, *, less_one: bool) -> Tensors:
    return {
      f"{base}.qweight": words(self.numbers, self.bits).T.contiguous(),
      f"{base}.qzeros": words((self.zeros - less_one).T, self.bits),
      f"{base}.scales": torch.from_numpy(self.scales.T.copy()),
      f"{base}.g_idx": torch.from_numpy(self.groups.astype(np.int32)),
    }

  def awq(self, base: str) -> Tensors:
    return {
      f"{base}.qweight": words(self.numbers.T, 4, AWQ_ORDER),
      f"{base}.qzeros": words(self.zeros.T, 4, AWQ_ORDER),
      f"{base}.scales": torch.from_numpy(self.scales.T.copy()),
    }


def settings(method: str, bits: int, group: int, **more: Any) -> dict[str, Any]:
  return {"quant_method": method, "bits": bits, "group_size": group, **more}


GPTQ = {
  "4 bits": settings("gptq", 4, 16, sym=True, desc_act=False),
  "4 bits v2 with zeros": settings("gptq", 4, 16, sym=False, desc_act=False, checkpoint_format="gptq_v2"),
  "4 bits with zeros": settings("gptq", 4, 32, sym=False, desc_act=False, checkpoint_format="gptq"),
  "8 bits": settings("gptq", 8, 16, sym=True, desc_act=False),
  "8 bits with zeros": settings("gptq", 8, 16, sym=False, desc_act=False),
  "one group": settings("gptq", 4, -1, sym=False, desc_act=False),
  "ordered": settings("gptq", 4, 16, sym=False, desc_act=True),
  "auto-round": settings("auto-round", 4, 16, sym=True, packing_format="auto_round:auto_gptq"),
}
AWQ = {
  "awq": settings("awq", 4, 16, version="gemm", zero_point=True, modules_to_not_convert=["mlp.gate"]),
  "auto-round awq": settings("auto-round", 4, 32, sym=False, packing_format="auto_round:auto_awq"),
}


def files(kind: str, folder: Path) -> tuple[Path, Path]:
  """A checkpoint in words, and one of the plain numbers that they mean."""
  config = {**GPTQ, **AWQ}[kind]
  awq = kind in AWQ
  case = OLMOE[0] if config["group_size"] != 32 else QWEN3_MOE[1]

  def layer(name: str, tensor: torch.Tensor) -> Layer:
    symmetric, ordered = config.get("sym", False) and not awq, config.get("desc_act", False)
    return Layer(name, tensor.shape, bits=config["bits"], group=config["group_size"], symmetric=symmetric,
                 ordered=ordered)  # fmt: skip

  def packed(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor}
    base, found = name.removesuffix(".weight"), layer(name, tensor)
    return found.awq(base) if awq else found.gptq(base, less_one=config.get("checkpoint_format") != "gptq_v2")

  def plain(name: str, tensor: torch.Tensor) -> Tensors:
    return {name: layer(name, tensor).weight if is_linear(name) else tensor}

  return (
    quantised(copied(case, folder / "words"), config, packed)[0],
    quantised(copied(case, folder / "plain"), None, plain)[0],
  )


def held(params: Any) -> dict[str, Any]:
  flat = nnx.to_flat_state(nnx.state(params.decoder))
  return {".".join(map(str, path)): variable.get_value() for path, variable in flat}


@pytest.mark.parametrize("kind", [*GPTQ, *AWQ])
def test_layers_stay_in_few_bits_and_mean_the_numbers_of_the_words(kind: str, tmp_path: Path):
  path, plain = files(kind, tmp_path)
  config = {**GPTQ, **AWQ}[kind]
  ours, expected = (held(lynx_jax.load(source, dtype="float32")) for source in (path, plain))
  count = 0
  for name, numbers in expected.items():
    found = ours[name]
    if isinstance(found, QuantizedWeight):
      count += 1
      assert found.form.code == ("int4" if config["bits"] == 4 else "int8")
      assert found.form.group == (None if config["group_size"] == -1 else config["group_size"])
      assert (found.zeros is None) == (config.get("sym", False) and kind not in AWQ)
    np.testing.assert_allclose(np.asarray(dequantize(found, jnp.float32)), np.asarray(numbers), rtol=2e-7, atol=0)
  # Four projections and two stacks of experts a layer; inputs in the order of activations are dequantised.
  assert count == (0 if kind == "ordered" else 12)


def test_logits_and_conversion(tmp_path: Path):
  path, plain = files("4 bits v2 with zeros", tmp_path)
  tokens = random_tokens(OLMOE[0], rows=2, length=19)
  ours = lynx_jax.load(path, dtype="float32")
  found, expected = (np.asarray(_forward(params, tokens)) for params in (ours, lynx_jax.load(plain, dtype="float32")))
  assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
  convert(path, tmp_path / "orbax", dtype="float32")
  again = held(lynx_jax.load(tmp_path / "orbax"))
  for name, one in held(ours).items():
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(again[name]), strict=True):
      assert first.dtype == second.dtype
      np.testing.assert_array_equal(np.asarray(first), np.asarray(second), err_msg=name)


def changed(path: Path, **more: Any) -> Path:
  config = json.loads((path / "config.json").read_text())
  config["quantization_config"] |= more
  (path / "config.json").write_text(json.dumps(config))
  return path


@pytest.mark.parametrize(
  ("kind", "more", "expected"),
  [
    ("4 bits", {"bits": 3}, r"bits to 3: not supported; supported: 4 or 8"),
    (
      "4 bits",
      {"checkpoint_format": "marlin"},
      r"checkpoint_format to 'marlin': not supported; supported: gptq or gptq_v2",
    ),
    ("4 bits", {"checkpoint_format": "gptq_v2"}, r"qzeros holds 7, where settings with sym true mean 8"),
    ("4 bits", {"group_size": 32}, r"scales has shape .*, expected .* for .*qweight"),
    ("4 bits", {"group_size": 0}, r"group_size to 0: not supported"),
    (
      "4 bits",
      {"dynamic": {r"-:.*\.0\.self_attn\.q_proj": {}}},
      r"the settings leave model\.layers\.0\.self_attn\.q_proj as",
    ),
    ("4 bits", {"dynamic": {r".*k_proj": {"bits": 8}}}, r"k_proj\.scales has shape"),
    ("4 bits", {"dynamic": []}, None),
    ("ordered", {"desc_act": False}, r"g_idx mixes the inputs of groups"),
    ("awq", {"version": "gemv"}, r"version to 'gemv': not supported; supported: gemm"),
    ("awq", {"bits": 8}, r"bits to 8: not supported; supported: 4"),
    ("auto-round", {"packing_format": "auto_round:llm_compressor"}, r"packing_format to 'auto_round:llm_compressor'"),
    (
      "auto-round",
      {"extra_config": {"model.layers.0.self_attn.q_proj": {"bits": 16}}},
      r"the settings leave model\.layers\.0",
    ),
  ],
)
def test_what_settings_say_and_files_do_not_is_named(kind: str, more: Any, expected: str | None, tmp_path: Path):
  path = changed(files(kind, tmp_path)[0], **more)
  if expected is None:
    lynx_jax.load(path)
    return
  with pytest.raises(CheckpointError, match=expected):
    lynx_jax.load(path)


def tampered(name: str, change: Callable[[torch.Tensor], Tensors]) -> Callable[[str, torch.Tensor], Tensors]:
  return lambda key, tensor: change(tensor) if key == name else {key: tensor}


@pytest.mark.parametrize("kind", ["4 bits", "awq"])
def test_a_missing_part_is_named(kind: str, tmp_path: Path):
  path, _ = files(kind, tmp_path)
  config = json.loads((path / "config.json").read_text())["quantization_config"]
  name = "model.layers.0.self_attn.q_proj.scales"
  quantised(path, config, tampered(name, lambda tensor: {}))
  with pytest.raises(CheckpointError, match=r"q_proj\.qweight has no model\.layers\.0\.self_attn\.q_proj\.scales"):
    lynx_jax.load(path)


def test_a_layer_with_bits_of_its_own(tmp_path: Path):
  path, _ = files("4 bits", tmp_path)
  config = json.loads((path / "config.json").read_text())["quantization_config"]
  config["dynamic"] = {r"+:.*\.1\.self_attn\.o_proj$": {"bits": 8}}
  wide = Layer("o", torch.Size((64, 64)), bits=8, group=16, symmetric=True, ordered=False)
  parts = wide.gptq("model.layers.1.self_attn.o_proj", less_one=True)
  quantised(path, config, lambda key, tensor: {key: parts.get(key, tensor)})
  found = held(lynx_jax.load(path, dtype="float32"))["layers.1.attention.output"]
  assert (found.form.code, found.form.group) == ("int8", 16)
  np.testing.assert_array_equal(np.asarray(dequantize(found, jnp.float32)), wide.weight.numpy())
