"""Checkpoints rewritten with quantised weights, packed here as their formats say and not by the code under test."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
MXFP4_CONFIG = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


def fp8_config(high: int, wide: int) -> dict[str, Any]:
  """What config.json says of 8-bit floats in such blocks."""
  return {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [high, wide], "activation_scheme": "dynamic"}


def quantised(
  path: Path, config: dict[str, Any] | None, change: Callable[[str, torch.Tensor], Tensors]
) -> tuple[Path, Tensors]:
  """Rewrites a checkpoint: `change` gives each tensor's own ones, and `config` says what they mean."""
  tensors = load_file(path / "model.safetensors")
  packed = {name: part for key, tensor in tensors.items() for name, part in change(key, tensor).items()}
  save_file(packed, path / "model.safetensors", metadata={"format": "pt"})
  written = json.loads((path / "config.json").read_text()) | {"dtype": "bfloat16"}
  if config is not None:
    written["quantization_config"] = config
  (path / "config.json").write_text(json.dumps(written))
  return path, packed


def is_linear(name: str) -> bool:
  """Whether files quantise the tensor: linear layers of attention and experts, without routers."""
  return name.endswith("proj.weight") or (".experts." in name and name.endswith("weight"))


def blocks_of_fp8(high: int, wide: int) -> Callable[[str, torch.Tensor], Tensors]:
  """Block scales on the linear layers, as DeepSeek-V3's files have them; the rest in bfloat16."""

  def change(name: str, tensor: torch.Tensor) -> Tensors:
    if not is_linear(name):
      return {name: tensor.bfloat16()}
    rows, columns = tensor.shape
    scales = torch.zeros(-(-rows // high), -(-columns // wide))
    codes = torch.zeros(tensor.shape, dtype=torch.float8_e4m3fn)
    for i, j in np.ndindex(*scales.shape):
      part = (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
      scales[i, j] = tensor[part].abs().max() / 448
      codes[part] = (tensor[part] / scales[i, j]).to(torch.float8_e4m3fn)
    return {name: codes, f"{name}_scale_inv": scales}

  return change


def groups_of_4_bits(name: str, tensor: torch.Tensor) -> Tensors:
  """Experts as gpt-oss's files have them: random bits, since only what they mean is tested."""
  if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
    return {name: tensor.bfloat16()}
  experts, columns, rows = tensor.shape
  generator = torch.Generator().manual_seed(rows)
  blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8, generator=generator)
  scales = torch.randint(119, 124, (experts, rows, columns // 32), dtype=torch.uint8, generator=generator)
  return {f"{name}_blocks": blocks, f"{name}_scales": scales}


def gpt_oss_checkpoint(directory: Path) -> Path:
  """A small gpt-oss whose experts are in 4 bits."""
  settings = transformers.GptOssConfig(
    vocab_size=64, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
    num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64, eos_token_id=2,
  )  # fmt: skip
  transformers.GptOssForCausalLM(settings).save_pretrained(directory)
  return quantised(directory, MXFP4_CONFIG, groups_of_4_bits)[0]
