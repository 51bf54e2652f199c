"""One model of every architecture of GGUF that is read, wide enough for blocks of 256 numbers."""

from typing import Any

from tests.families.case import Case

_WIDE: dict[str, Any] = {"hidden_size": 256, "num_key_value_heads": 2, "num_experts_per_tok": 2}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 32}
_LATENT = {
  "hidden_size": 256, "num_experts_per_tok": 2, "num_key_value_heads": 4, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
  "qk_rope_head_dim": 16, "v_head_dim": 64, "intermediate_size": 256, "moe_intermediate_size": 256,
  "n_routed_experts": 4, "first_k_dense_replace": 1,
}  # fmt: skip

GGUF_CASES = (
  Case("mixtral", "gguf", _WIDE | {"intermediate_size": 256, "num_local_experts": 4}),
  Case(
    "qwen2_moe", "gguf",
    _WIDE | {"intermediate_size": 512, "moe_intermediate_size": 256, "shared_expert_intermediate_size": 256,
             "num_experts": 4, "norm_topk_prob": False},
  ),
  Case(
    "qwen3_moe", "gguf",
    _WIDE | {"intermediate_size": 512, "moe_intermediate_size": 256, "num_experts": 4, "head_dim": 64,
             "norm_topk_prob": True},
  ),
  Case(
    "gpt_oss", "gguf",
    _WIDE | {"intermediate_size": 256, "num_local_experts": 4, "head_dim": 64, "sliding_window": 6,
             "rope_parameters": _YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}},
  ),
  Case("olmoe", "gguf", _WIDE | {"intermediate_size": 256, "num_experts": 4}),
  Case(
    "granitemoe", "gguf",
    _WIDE | {"intermediate_size": 256, "num_local_experts": 4, "embedding_multiplier": 3.0,
             "attention_multiplier": 0.1, "residual_multiplier": 0.7, "logits_scaling": 4.0,
             "tie_word_embeddings": True},
  ),
  Case(
    "dbrx", "gguf",
    {"d_model": 256, "attn_config": {"kv_n_heads": 2, "clip_qkv": 0.8, "rope_theta": 5e5},
     "ffn_config": {"ffn_hidden_size": 256, "moe_num_experts": 4, "moe_top_k": 2},
     "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
  ),
  Case(
    "deepseek_v2", "gguf",
    _LATENT | {"q_lora_rank": None, "n_shared_experts": 2, "routed_scaling_factor": 1.0,
               "rope_parameters": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}},
  ),
  Case(
    "deepseek_v3", "gguf",
    _LATENT | {"q_lora_rank": 64, "n_routed_experts": 8, "n_group": 4, "topk_group": 2,
               "routed_scaling_factor": 2.5, "rope_parameters": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}},
  ),
)  # fmt: skip
