"""One configuration of one family, as transformers takes it."""

import copy
import dataclasses
from typing import Any

import transformers

VOCAB = 101

CLASSES = {
  "dbrx": (transformers.DbrxConfig, transformers.DbrxForCausalLM),
  "deepseek_v2": (transformers.DeepseekV2Config, transformers.DeepseekV2ForCausalLM),
  "deepseek_v3": (transformers.DeepseekV3Config, transformers.DeepseekV3ForCausalLM),
  "gpt_oss": (transformers.GptOssConfig, transformers.GptOssForCausalLM),
  "granitemoe": (transformers.GraniteMoeConfig, transformers.GraniteMoeForCausalLM),
  "llama4_text": (transformers.Llama4TextConfig, transformers.Llama4ForCausalLM),
  "mixtral": (transformers.MixtralConfig, transformers.MixtralForCausalLM),
  "olmoe": (transformers.OlmoeConfig, transformers.OlmoeForCausalLM),
  "phimoe": (transformers.PhimoeConfig, transformers.PhimoeForCausalLM),
  "qwen2_moe": (transformers.Qwen2MoeConfig, transformers.Qwen2MoeForCausalLM),
  "qwen3_moe": (transformers.Qwen3MoeConfig, transformers.Qwen3MoeForCausalLM),
}
_COMMON = {
  "vocab_size": VOCAB,
  "hidden_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 256,
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": 0,
}


_DBRX = {
  "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
  "max_position_embeddings": "max_seq_len",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
  """One configuration: its family, what it exercises (`name`), and its fields."""

  family: str
  name: str
  fields: dict[str, Any]

  def __str__(self) -> str:
    return f"{self.family}-{self.name}"

  def config(self) -> Any:
    common = _COMMON
    if self.family == "dbrx":
      common = {_DBRX.get(name, name): value for name, value in _COMMON.items()}
    return CLASSES[self.family][0](**common | copy.deepcopy(self.fields))
