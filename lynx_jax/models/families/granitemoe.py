"""Granite MoE (Granite 3.0 and 3.1): embedding, attention, residual and logits each have a multiplier.

Router: the top k logits, then their softmax, which is the softmax over all experts divided by the top k's sum. No
knobs are published for Lynx. Reference: transformers, `models/granitemoe/modeling_granitemoe.py`.
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields, check_common, head_dim, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` granitemoe describes."""
  fields = Fields("granitemoe", config)
  check_common(fields)
  context = fields.optional("max_position_embeddings", 2048)
  heads, bias = fields.whole("num_attention_heads"), fields.optional("attention_bias", False)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.optional("num_key_value_heads", None) or heads,
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qkv_bias=bias,
    output_bias=bias,
    scale=fields.optional("attention_multiplier", 1.0),
  )
  experts = MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="softmax", renormalize=True),
  )
  return DecoderSpec(
    family="granitemoe",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=(LayerSpec(attention=attention, ffn=experts),) * fields.whole("num_hidden_layers"),
    norm_eps=fields.optional("rms_norm_eps", 1e-6),
    tied=fields.optional("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
    embedding_multiplier=fields.optional("embedding_multiplier", 1.0),
    residual_multiplier=fields.optional("residual_multiplier", 1.0),
    logits_divisor=fields.optional("logits_scaling", 1.0),
  )
