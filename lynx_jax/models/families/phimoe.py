"""Phi-3.5-MoE: LayerNorm with bias, biases of attention and head as set, LongRoPE, optionally a sliding window.

Router: SparseMixer (arXiv 2409.12136), two experts one after the other, each weighing its softmax among those within
2 % of it; weights do not sum to 1. No knobs are published for Lynx. LongRoPE multiplies turned queries and keys by the
file's `short_mscale` or `long_mscale`. Tensors: Mixtral's names, with biases of norms, attention and head. Reference:
transformers, `models/phimoe/modeling_phimoe.py`; arXiv 2404.14219.

transformers 5 does not hand a prompt's length to LongRoPE, so it divides by `short_factor` whatever the length. Here
`long_factor` serves rows longer than the original context, as in the code that came with the model. A row that grows
past that context while decoding keeps the keys in its cache (`lynx_jax.models.rope`); transformers' `generate` reads
the whole row again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import required, rope, rope_object
from lynx_jax.models.families.tensor_names import decoder_rules, experts_apart, experts_fused, fused
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import LongScaling, RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` phimoe describes."""
  fields = Fields("phimoe", config)
  check_common(fields)
  # SparseMixer keeps experts whose logit is within twice this share of the largest.
  fields.only("router_jitter_noise", (0.01,), 0.01)
  fields.only("num_experts_per_tok", (2,), 2)
  context = fields.whole_or("max_position_embeddings", 131072)
  heads, bias = fields.whole("num_attention_heads"), fields.flag("attention_bias", False)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", 8) or heads,
    head_dim=head_dim(fields),
    rope=_rope(fields, context),
    qkv_bias=bias,
    output_bias=bias,
    window=fields.maybe_whole("sliding_window", None),
  )
  experts = MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=2,
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="sparsemixer", renormalize=False),
  )
  return DecoderSpec(
    family="phimoe",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields),
    norm="layer",
    norm_bias=True,
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", False),
    head_bias=fields.flag("lm_head_bias", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
  )


def _rope(fields: Fields, context: int) -> RopeSpec:
  found = rope(fields, 1e6, context=context, kinds=("default", "longrope"), more=("short_mscale", "long_mscale"))
  if not isinstance(found.scaling, LongScaling):
    return found
  short, long = (required(rope_object(fields), "longrope", key) for key in ("short_mscale", "long_mscale"))
  scaling = dataclasses.replace(found.scaling, short_attention_factor=short, long_attention_factor=long)
  return dataclasses.replace(found, scaling=scaling)


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}"
    if fused(found):
      return experts_fused(ours, f"{theirs}.mlp", router="router.weight")
    return experts_apart(ours, f"{theirs}.block_sparse_moe", layer.ffn.experts, gate="w1", up="w3", down="w2")

  return decoder_rules(spec, ffn)


FAMILY = Family(name="phimoe", spec=spec, rules=rules)
