"""A tiny configuration of every family, which has each of the family's particularities."""

from types import MappingProxyType
from typing import Any

_COMMON: dict[str, Any] = {
  "vocab_size": 128,
  "hidden_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 4096,
  "num_experts_per_tok": 2,
  "eos_token_id": 2,
}
_EIGHT = {"num_local_experts": 8, "intermediate_size": 32}
_LATENT = {
  "num_key_value_heads": 4,
  "kv_lora_rank": 16,
  "q_lora_rank": 24,
  "qk_nope_head_dim": 16,
  "qk_rope_head_dim": 8,
  "v_head_dim": 16,
  "n_routed_experts": 8,
  "n_shared_experts": 1,
  "moe_intermediate_size": 32,
  "intermediate_size": 96,
  "first_k_dense_replace": 1,
}
_OWN: dict[str, dict[str, Any]] = {
  "dbrx": {
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 4096,
    "vocab_size": 128,
    "eos_token_id": 2,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 5e5},
    "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 8, "moe_top_k": 4},
  },
  "deepseek_v2": _COMMON | _LATENT | {"q_lora_rank": None},
  "deepseek_v3": _COMMON | _LATENT | {"n_group": 2, "topk_group": 1},
  "gpt_oss": _COMMON | _EIGHT | {"head_dim": 16, "sliding_window": 8},
  "granitemoe": _COMMON
  | _EIGHT
  | {
    "embedding_multiplier": 12.0,
    "attention_multiplier": 0.0625,
    "residual_multiplier": 0.22,
    "logits_scaling": 6.0,
    "tie_word_embeddings": True,
  },
  "llama4_text": _COMMON
  | _EIGHT
  | {
    "num_experts_per_tok": 1,
    "head_dim": 16,
    "intermediate_size_mlp": 64,
    "no_rope_layer_interval": 2,
    "attention_chunk_size": 8,
    "floor_scale": 8,
  },
  "mixtral": _COMMON | _EIGHT,
  "moefied_llama": _COMMON
  | {"num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "rope_theta": 1e4},
  "olmoe": _COMMON | {"num_experts": 8, "intermediate_size": 32},
  "phimoe": _COMMON
  | _EIGHT
  | {
    "attention_bias": True,
    "lm_head_bias": True,
    "rope_scaling": {
      "type": "longrope",
      "short_factor": [1.0 + 0.1 * pair for pair in range(8)],
      "long_factor": [1.0 + pair for pair in range(8)],
      "short_mscale": 1.24,
      "long_mscale": 1.24,
      "original_max_position_embeddings": 16,
    },
  },
  "qwen2_moe": _COMMON | {"num_experts": 8, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64},
  "qwen3_moe": _COMMON | {"num_experts": 8, "moe_intermediate_size": 32, "head_dim": 16},
}

TINY = MappingProxyType({family: {"model_type": family, **config} for family, config in _OWN.items()})
"""config.json of a tiny model, by family."""
