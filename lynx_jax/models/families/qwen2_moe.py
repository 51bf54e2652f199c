"""Qwen2-MoE (Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B): a shared expert behind a sigmoid gate; q, k, v biases, none of o.

Router: softmax over all experts, the top k as they are (`norm_topk_prob` false), or divided by their sum. Published
Lynx knobs: alpha 3, beta 4 (Qwen2-57B-A14B). Reference: transformers, `models/qwen2_moe/modeling_qwen2_moe.py`; arXiv
2407.10671.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_types, stop_ids
from lynx_jax.models.families.qwen_layers import ffns
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` qwen2_moe describes."""
  fields = Fields("qwen2_moe", config)
  check_common(fields)
  context = fields.optional("max_position_embeddings", 32768)
  attention = AttentionSpec(
    heads=fields.whole("num_attention_heads"),
    kv_heads=fields.optional("num_key_value_heads", 16),
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qkv_bias=fields.optional("qkv_bias", True),
  )
  experts = functools.partial(
    MoESpec,
    router=Router(scoring="softmax", renormalize=fields.optional("norm_topk_prob", False)),
    shared=DenseSpec(width=fields.whole("shared_expert_intermediate_size")),
    shared_gate=True,
  )
  layers = (
    LayerSpec(attention=dataclasses.replace(attention, window=window), ffn=ffn)
    for window, ffn in zip(_windows(fields), ffns(fields, experts), strict=True)
  )
  return DecoderSpec(
    family="qwen2_moe",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.optional("rms_norm_eps", 1e-6),
    tied=fields.optional("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _windows(fields: Fields) -> list[int | None]:
  layers = fields.whole("num_hidden_layers")
  if not fields.optional("use_sliding_window", False):
    layer_types(fields, ["full_attention"] * layers, ("full_attention",))
    return [None] * layers
  if fields.optional("layer_types", None) is None:
    # transformers 4 slid the window from `max_window_layers` on, transformers 5 in every second layer before it.
    raise fields.unsupported("use_sliding_window", True, "true where layer_types says which layers slide")
  kinds = layer_types(fields, (), ("full_attention", "sliding_attention"))
  window = fields.optional("sliding_window", 4096)
  return [window if kind == "sliding_attention" else None for kind in kinds]
