"""OLMoE: every layer has experts; q and k are normed over the whole projection; q, k, v may be clipped.

Reference: transformers, `models/olmoe/modeling_olmoe.py`; arXiv 2409.02060.
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
  """The decoder that a `config.json` of `model_type` olmoe describes."""
  fields = Fields("olmoe", config)
  check_common(fields)
  context = fields.optional("max_position_embeddings", 4096)
  fields.only("sliding_window", (None,))
  heads, width = fields.whole("num_attention_heads"), fields.whole("hidden_size")
  # The reference sizes the norms of q and k by the model width, so no other head width can run in it.
  fields.only("head_dim", (None, width // heads))
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.optional("num_key_value_heads", None) or heads,
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qk_norm="projection",
    qkv_bias=fields.optional("attention_bias", False),
    output_bias=fields.optional("attention_bias", False),
    clip=fields.optional("clip_qkv", None),
  )
  experts = MoESpec(
    experts=fields.whole("num_experts", "num_local_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="softmax", renormalize=fields.optional("norm_topk_prob", False)),
  )
  return DecoderSpec(
    family="olmoe",
    vocab=fields.whole("vocab_size"),
    width=width,
    layers=(LayerSpec(attention=attention, ffn=experts),) * fields.whole("num_hidden_layers"),
    norm_eps=fields.optional("rms_norm_eps", 1e-5),
    tied=fields.optional("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 50279),
  )
