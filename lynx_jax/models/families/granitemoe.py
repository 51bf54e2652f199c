"""Granite MoE (Granite 3.0 and 3.1): embedding, attention, residual and logits each have a multiplier.

Router: the top k logits, then their softmax, which is the softmax over all experts divided by the top k's sum. No
knobs are published for Lynx. Reference: transformers, `models/granitemoe/modeling_granitemoe.py`.

Tensors: the hub's files have a layer's experts in two, `input_linear` (gate rows first) and `output_linear`.
transformers 5 has them under its own fused names in memory, and may write those.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.families.tensor_names import decoder_rules, experts_fused, fused
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` granitemoe describes."""
  fields = Fields("granitemoe", config)
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 2048)
  heads, bias = fields.whole("num_attention_heads"), fields.flag("attention_bias", False)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", None) or heads,
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qkv_bias=bias,
    output_bias=bias,
    scale=fields.number("attention_multiplier", 1.0),
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
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields),
    norm_eps=fields.number("rms_norm_eps", 1e-6),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
    embedding_multiplier=fields.number("embedding_multiplier", 1.0),
    residual_multiplier=fields.number("residual_multiplier", 1.0),
    logits_divisor=fields.number("logits_scaling", 1.0),
  )


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.block_sparse_moe"
    if fused(found):
      return experts_fused(ours, theirs, router="router.weight")
    return (
      Rule(f"{ours}.router", f"{theirs}.router.layer.weight"),
      Rule(f"{ours}.gate_up", f"{theirs}.input_linear.weight"),
      Rule(f"{ours}.down", f"{theirs}.output_linear.weight"),
    )

  return decoder_rules(spec, ffn)


FAMILY = Family(name="granitemoe", spec=spec, rules=rules)
