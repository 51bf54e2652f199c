"""Phi-3.5-MoE: LayerNorm with bias, biases of attention and head as set, LongRoPE, optionally a sliding window.

Router: SparseMixer (arXiv 2409.12136), two experts one after the other, each weighing its softmax among those within
2 % of it; weights do not sum to 1. No knobs are published for Lynx. LongRoPE multiplies turned queries and keys by the
file's `short_mscale` or `long_mscale`. Reference: transformers, `models/phimoe/modeling_phimoe.py`; arXiv 2404.14219.

transformers 5 forgets to hand a prompt's length to LongRoPE, and so divides by `short_factor` whatever the length; here
`long_factor` serves rows longer than the original context, as in the code that came with the model. A row that grows
past that context while decoding keeps the keys in its cache (`lynx_jax.models.rope`), where transformers' `generate`
reads the whole row again.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields, check_common, head_dim, stop_ids
from lynx_jax.models.families.rope_fields import rope, rope_values
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import LongScaling, RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` phimoe describes."""
  fields = Fields("phimoe", config)
  check_common(fields)
  # What SparseMixer calls near is twice this share.
  fields.only("router_jitter_noise", (0.01,), 0.01)
  fields.only("num_experts_per_tok", (2,), 2)
  context = fields.optional("max_position_embeddings", 131072)
  heads, bias = fields.whole("num_attention_heads"), fields.optional("attention_bias", False)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.optional("num_key_value_heads", 8) or heads,
    head_dim=head_dim(fields),
    rope=_rope(fields, context),
    qkv_bias=bias,
    output_bias=bias,
    window=fields.optional("sliding_window", None),
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
    layers=(LayerSpec(attention=attention, ffn=experts),) * fields.whole("num_hidden_layers"),
    norm="layer",
    norm_bias=True,
    norm_eps=fields.optional("rms_norm_eps", 1e-5),
    tied=fields.optional("tie_word_embeddings", False),
    head_bias=fields.optional("lm_head_bias", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
  )


def _rope(fields: Fields, context: int) -> RopeSpec:
  found = rope(fields, 1e6, context=context, kinds=("default", "longrope"), more=("short_mscale", "long_mscale"))
  if not isinstance(found.scaling, LongScaling):
    return found
  _, nested = rope_values(fields)
  magnitudes = []
  for key in ("short_mscale", "long_mscale"):
    if nested.get(key) is None:
      raise ValueError(f"config.json of family 'phimoe' has a rotary embedding 'longrope' without {key!r}: add it")
    magnitudes.append(float(nested[key]))
  short, long = magnitudes
  scaling = dataclasses.replace(found.scaling, short_attention_factor=short, long_attention_factor=long)
  return dataclasses.replace(found, scaling=scaling)
