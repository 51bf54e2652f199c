"""GGUF files of models in Hugging Face directories, written with llama.cpp's own package as its converter writes them.

The package names the tensors and quantises; which tensors are stacked, transposed or reordered, and which metadata an
architecture has, is stated here after llama.cpp's `conversion/*.py`.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from safetensors.torch import load_file

from tests.checkpoints_convert.k_quants import Quant, encode

Config = Mapping[str, Any]
Kinds = Callable[[str, np.ndarray], Quant]
"""The type of a tensor, by its name in GGUF files."""


def everything(kind: Quant) -> Kinds:
  """Matrices in one type, or in Q8_0 where their rows are no whole blocks of it; vectors and routers in float32."""

  def choose(name: str, array: np.ndarray) -> Quant:
    if array.ndim < 2 or "ffn_gate_inp" in name:
      return Quant.F32
    return Quant.Q8_0 if array.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind

  return choose


@dataclasses.dataclass(frozen=True)
class Architecture:
  """How the models of a family are written.

  `metadata` adds to what all have; `turned` tells whether rows of queries and keys are reordered.
  """

  name: str
  arch: gguf.MODEL_ARCH
  metadata: Callable[[gguf.GGUFWriter, Config], None]
  turned: bool = False


def _expert_width(writer: gguf.GGUFWriter, config: Config) -> None:
  writer.add_expert_feed_forward_length(config["moe_intermediate_size"])


def _qwen2(writer: gguf.GGUFWriter, config: Config) -> None:
  _expert_width(writer, config)
  writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])


def _gpt_oss(writer: gguf.GGUFWriter, config: Config) -> None:
  writer.add_sliding_window(config["sliding_window"])
  writer.add_expert_feed_forward_length(config["intermediate_size"])


def _granite(writer: gguf.GGUFWriter, config: Config) -> None:
  writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
  writer.add_attention_scale(config["attention_multiplier"])
  writer.add_embedding_scale(config["embedding_multiplier"])
  writer.add_residual_scale(config["residual_multiplier"])
  writer.add_logit_scale(config["logits_scaling"])


def _llama(writer: gguf.GGUFWriter, config: Config) -> None:
  writer.add_vocab_size(config["vocab_size"])
  writer.add_rope_dimension_count(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _dbrx(writer: gguf.GGUFWriter, config: Config) -> None:
  attention, ffn = config["attn_config"], config["ffn_config"]
  writer.add_clamp_kqv(attention["clip_qkv"])
  writer.add_feed_forward_length(ffn["ffn_hidden_size"])
  writer.add_expert_count(ffn["moe_num_experts"])
  writer.add_expert_used_count(ffn["moe_top_k"])
  writer.add_layer_norm_eps(1e-5)


def _deepseek(writer: gguf.GGUFWriter, config: Config) -> None:
  writer.add_leading_dense_block_count(config["first_k_dense_replace"])
  if config.get("q_lora_rank"):
    writer.add_q_lora_rank(config["q_lora_rank"])
  rank, turned = config["kv_lora_rank"], config["qk_rope_head_dim"]
  writer.add_kv_lora_rank(rank)
  writer.add_key_length(rank + turned)
  writer.add_value_length(rank)
  writer.add_key_length_mla(config["qk_nope_head_dim"] + turned)
  writer.add_value_length_mla(config["v_head_dim"])
  _expert_width(writer, config)
  writer.add_expert_count(config["n_routed_experts"])
  writer.add_expert_shared_count(config["n_shared_experts"])
  writer.add_expert_weights_scale(config["routed_scaling_factor"])
  if config.get("norm_topk_prob"):
    writer.add_expert_weights_norm(True)
  writer.add_rope_dimension_count(turned)
  sigmoid = config["model_type"] == "deepseek_v3"
  writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX)
  if scale := (config.get("rope_parameters") or {}).get("mscale_all_dim"):
    writer.add_rope_scaling_yarn_log_mul(0.1 * scale)


_ARCH = gguf.MODEL_ARCH
ARCHITECTURES = {
  "dbrx": Architecture("dbrx", _ARCH.DBRX, _dbrx),
  "deepseek_v2": Architecture("deepseek2", _ARCH.DEEPSEEK2, _deepseek),
  "deepseek_v3": Architecture("deepseek2", _ARCH.DEEPSEEK2, _deepseek),
  "gpt_oss": Architecture("gpt-oss", _ARCH.GPT_OSS, _gpt_oss),
  "granitemoe": Architecture("granitemoe", _ARCH.GRANITE_MOE, _granite, turned=True),
  "mixtral": Architecture("llama", _ARCH.LLAMA, _llama, turned=True),
  "olmoe": Architecture("olmoe", _ARCH.OLMOE, lambda writer, config: None),
  "qwen2_moe": Architecture("qwen2moe", _ARCH.QWEN2MOE, _qwen2),
  "qwen3_moe": Architecture("qwen3moe", _ARCH.QWEN3MOE, _expert_width),
}


def write_gguf(
  path: Path,
  directory: Path,
  kinds: Kinds,
  *,
  tokenizer: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
  numbers: Mapping[str, np.ndarray] = MappingProxyType({}),
  more: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> dict[str, np.ndarray]:
  """Writes the model of a Hugging Face directory as `path`; returns the numbers that the file holds, dequantised.

  `numbers` replace those of tensors by their names in the file.
  """
  config = json.loads((directory / "config.json").read_text())
  architecture = ARCHITECTURES[config["model_type"]]
  writer = gguf.GGUFWriter(path, architecture.name)
  _metadata(writer, config, architecture)
  tokenizer(writer)
  more(writer)
  held: dict[str, np.ndarray] = {}
  for name, array in _tensors(directory, config, architecture):
    array, kind = numbers.get(name, array), kinds(name, array)
    data = encode(np.ascontiguousarray(array), kind)
    held[name] = gguf.dequantize(data, kind).reshape(array.shape)
    writer.add_tensor(name, data, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return held


def _metadata(writer: gguf.GGUFWriter, config: Config, architecture: Architecture) -> None:
  """What llama.cpp's converter writes for every text model."""
  found = {
    "block_count": ("n_layers", "num_hidden_layers"),
    "context_length": ("max_seq_len", "max_position_embeddings"),
    "embedding_length": ("d_model", "hidden_size"),
    "feed_forward_length": ("intermediate_size",),
    "head_count": ("n_heads", "num_attention_heads"),
    "head_count_kv": ("num_key_value_heads",),
    "layer_norm_rms_eps": ("rms_norm_eps",),
    "expert_count": ("num_local_experts", "num_experts"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_group_count": ("n_group",),
    "expert_group_used_count": ("topk_group",),
    "key_length": ("head_dim",),
    "value_length": ("head_dim",),
  }
  for key, spellings in found.items():
    value = next((config[name] for name in spellings if config.get(name) is not None), None)
    if architecture.arch == _ARCH.DBRX and key == "head_count_kv":
      value = config["attn_config"]["kv_n_heads"]
    if architecture.arch == _ARCH.DEEPSEEK2 and key in ("head_count_kv", "key_length", "value_length"):
      value = 1 if key == "head_count_kv" else None
    if value is not None:
      getattr(writer, f"add_{key}")(value)
  rope = config.get("rope_parameters") or {}
  if "rope_theta" in rope:
    writer.add_rope_freq_base(rope["rope_theta"])
  if rope.get("rope_type") == "yarn":
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if "beta_fast" in rope:
      writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
      writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
  architecture.metadata(writer, config)
  writer.add_eos_token_id(config["eos_token_id"])


def _tensors(directory: Path, config: Config, architecture: Architecture) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors under the names of GGUF files, in float32."""
  layers = config.get("num_hidden_layers") or config["n_layers"]
  names = gguf.get_tensor_name_map(architecture.arch, layers)
  found = {name: tensor.float().numpy() for name, tensor in load_file(directory / "model.safetensors").items()}
  for name, array in _stacked(found, config).items():
    if config.get("tie_word_embeddings") and name == "lm_head.weight":
      continue
    if name.endswith("sinks") or ".mlp.w1" in name or ".mlp.v1" in name or ".mlp.w2" in name:
      name = f"{name}.weight"
    if architecture.turned and ("q_proj" in name or "k_proj" in name):
      heads = config["num_attention_heads"] if "q_proj" in name else config["num_key_value_heads"]
      array = array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
    yield from _named(names, name, array, config)


def _named(names: Any, name: str, array: np.ndarray, config: Config) -> Iterator[tuple[str, np.ndarray]]:
  if name.endswith("kv_b_proj.weight"):
    heads, width = config["num_attention_heads"], config["qk_nope_head_dim"]
    parts = array.reshape(heads, -1, array.shape[-1])
    base = name.removesuffix(".weight")
    yield f"{names.get_name(base.replace('kv_b', 'k_b'))}.weight", parts[:, :width].swapaxes(1, 2)
    yield f"{names.get_name(base.replace('kv_b', 'v_b'))}.weight", parts[:, width:]
    return
  if name.endswith("e_score_correction_bias"):
    name = name.replace("e_score_correction_bias", "e_score_correction.bias")
  base, suffix = name.rsplit(".", 1)
  mapped = names.get_name(base)
  assert mapped is not None, name
  if mapped.endswith("ffn_gate_inp_shexp"):
    array = array.reshape(-1)
  yield f"{mapped}.{suffix}", array


_EXPERT = re.compile(r"(?P<layer>.*\.experts)\.(?P<number>\d+)\.(?P<weight>\w+)\.weight")


def _stacked(found: dict[str, np.ndarray], config: Config) -> dict[str, np.ndarray]:
  """The tensors with the experts of a layer in one for the gate, one for up and one for down, outputs before inputs."""
  whole: dict[str, np.ndarray] = {}
  experts: dict[str, dict[int, np.ndarray]] = {}
  for name, array in found.items():
    if match := _EXPERT.fullmatch(name):
      experts.setdefault(f"{match['layer']}.{match['weight']}.weight", {})[int(match["number"])] = array
    elif name.endswith(("experts.gate_up_proj", "experts.gate_up_proj_bias")):
      # gpt-oss: transposed, columns of gate and up by turns.
      turned = array if name.endswith("_bias") else array.swapaxes(1, 2)
      kind = "bias" if name.endswith("_bias") else "weight"
      base = name.removesuffix("_bias").removesuffix("gate_up_proj")
      whole[f"{base}gate_proj.{kind}"], whole[f"{base}up_proj.{kind}"] = turned[:, ::2], turned[:, 1::2]
    elif name.endswith(("experts.down_proj", "experts.down_proj_bias")):
      kind = "bias" if name.endswith("_bias") else "weight"
      whole[f"{name.removesuffix('_bias')}.{kind}"] = array if kind == "bias" else array.swapaxes(1, 2)
    elif name.endswith("input_linear.weight"):
      width, base = config["intermediate_size"], name.removesuffix("input_linear.weight")
      whole[f"{base}experts.w1.weight"], whole[f"{base}experts.w3.weight"] = array[:, :width], array[:, width:]
    elif name.endswith(("mlp.w1", "mlp.v1", "mlp.w2")):
      cut = array.reshape(config["ffn_config"]["moe_num_experts"], -1, array.shape[-1])
      whole[name] = cut.swapaxes(1, 2) if name.endswith("w2") else cut
    else:
      whole[name] = array
  return whole | {name: np.stack([parts[number] for number in sorted(parts)]) for name, parts in experts.items()}
