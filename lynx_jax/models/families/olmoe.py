"""OLMoE: every layer has experts; q and k are normed over the whole projection; q, k, v may be clipped.

Tensors: experts under `mlp.experts.E`. Reference: transformers, `models/olmoe/modeling_olmoe.py`; arXiv 2409.02060.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.families.tensor_names import decoder_rules, expert_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` olmoe describes."""
  fields = Fields("olmoe", config)
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 4096)
  fields.only("sliding_window", (None,))
  heads, width = fields.whole("num_attention_heads"), fields.whole("hidden_size")
  # The reference sizes the norms of q and k by the model width, so no other head width can run in it.
  fields.only("head_dim", (None, width // max(heads, 1)))
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", None) or heads,
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qk_norm="projection",
    qkv_bias=fields.flag("attention_bias", False),
    output_bias=fields.flag("attention_bias", False),
    clip=fields.maybe_number("clip_qkv", None),
  )
  experts = MoESpec(
    experts=fields.whole("num_experts", "num_local_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="softmax", renormalize=fields.flag("norm_topk_prob", False)),
  )
  return DecoderSpec(
    family="olmoe",
    vocab=fields.whole("vocab_size"),
    width=width,
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields),
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 50279),
  )


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    return expert_rules(f"layers.{index}.ffn", f"model.layers.{index}.mlp", layer.ffn, found)

  return decoder_rules(spec, ffn)


FAMILY = Family(name="olmoe", spec=spec, rules=rules)
