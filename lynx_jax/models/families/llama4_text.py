"""Llama 4 (Scout, Maverick), the text model: every token runs a shared expert and one of its own.

Router: the largest logit, whose sigmoid multiplies what goes into the expert. Layers with rotary positions see chunks
of 8192 positions and norm each head's queries and keys; every fourth layer has no positions, sees everything, and
grows its queries with the logarithm of their position (arXiv 2501.19399). Published Lynx knobs: alpha 1 without a
clip, which is a `beta` larger than the logits' spread. Reference: transformers, `models/llama4/modeling_llama4.py`,
also for the `text_config` of `model_type` llama4, whose vision model is left out.
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec, QueryGrowth
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.fields import Fields, check_common, layer_types, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` llama4_text describes."""
  fields = Fields("llama4_text", config)
  check_common(fields)
  layers, context = fields.whole("num_hidden_layers"), fields.optional("max_position_embeddings", 131072)
  # Heads are normed after they are turned there and before here, which is one thing while turns keep lengths.
  positions = rope(fields, 5e5, context=context, kinds=("default", "linear", "llama3"))
  turned = [bool(one) for one in fields.optional("no_rope_layers", None) or _every_but(fields, layers)]
  if len(turned) < layers:
    raise fields.unsupported("no_rope_layers", turned, f"one number for each of {layers} layers")
  chunk = fields.optional("attention_chunk_size", 8192)
  by_positions = ["chunked_attention" if one and chunk is not None else "full_attention" for one in turned[:layers]]
  kinds = layer_types(fields, by_positions, ("chunked_attention", "full_attention"))
  if "chunked_attention" in kinds and chunk is None:
    raise fields.unsupported("attention_chunk_size", None, "a number of positions, which layer_types asks for")
  dense, experts = DenseSpec(width=fields.optional("intermediate_size_mlp", 16384)), _experts(fields)
  with_experts = _moe_layers(fields, layers)
  return DecoderSpec(
    family="llama4_text",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(
      LayerSpec(
        attention=_attention(fields, positions if turned[index] else None, chunk if kind != "full_attention" else None),
        ffn=experts if index in with_experts else dense,
      )
      for index, kind in enumerate(kinds)
    ),
    norm_eps=fields.optional("rms_norm_eps", 1e-5),
    tied=fields.optional("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
  )


def _attention(fields: Fields, positions: RopeSpec | None, chunk: int | None) -> AttentionSpec:
  heads, bias = fields.whole("num_attention_heads"), fields.optional("attention_bias", False)
  grown = positions is None and fields.optional("attn_temperature_tuning", True)
  growth = QueryGrowth(gain=fields.optional("attn_scale", 0.1), floor=fields.optional("floor_scale", 8192))
  return AttentionSpec(
    heads=heads,
    kv_heads=fields.optional("num_key_value_heads", 8) or heads,
    head_dim=fields.optional("head_dim", 128) or fields.whole("hidden_size") // heads,
    rope=positions,
    qk_norm="l2" if positions is not None and fields.optional("use_qk_norm", True) else "none",
    qkv_bias=bias,
    output_bias=bias,
    chunk=chunk,
    query_growth=growth if grown else None,
  )


def _experts(fields: Fields) -> MoESpec:
  width = fields.whole("intermediate_size")
  return MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=width,
    router=Router(scoring="sigmoid", renormalize=False),
    scale_input=True,
    shared=DenseSpec(width=width),
  )


def _every_but(fields: Fields, layers: int) -> list[int]:
  interval = fields.optional("no_rope_layer_interval", 4)
  return [int((index + 1) % interval != 0) for index in range(layers)]


def _moe_layers(fields: Fields, layers: int) -> set[int]:
  given = fields.optional("moe_layers", None)
  if given is not None:
    return set(given)
  step = fields.optional("interleave_moe_layer_step", 1)
  if step < 1:
    raise fields.unsupported("interleave_moe_layer_step", step, "1 or more (every such layer has experts)")
  return set(range(step - 1, layers, step))
