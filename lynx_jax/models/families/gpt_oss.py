"""gpt-oss: a learned sink a head, sliding and full attention by turns, biases throughout, a clamped SwiGLU.

Router: the top k logits (with their bias), then their softmax, which is the softmax over all experts divided by the
top k's sum. Rotary positions are YaRN's without rounding. Published Lynx knobs: alpha 3, beta 2 (gpt-oss-120b).
Reference: transformers, `models/gpt_oss/modeling_gpt_oss.py`; arXiv 2508.10925.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields, check_common, layer_types, stop_ids
from lynx_jax.models.families.rope_fields import rope, rope_values
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router
from pallas_kernels.activations import ClampedSwiGLU

_DEFAULT_ROPE = {
  "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
  "original_max_position_embeddings": 4096,
}  # fmt: skip


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` gpt_oss describes."""
  fields = Fields("gpt_oss", config)
  if not rope_values(fields)[1]:
    fields = Fields("gpt_oss", {**config, "rope_parameters": _DEFAULT_ROPE})
  check_common(fields)
  context = fields.optional("max_position_embeddings", 131072)
  heads, bias = fields.whole("num_attention_heads"), fields.optional("attention_bias", True)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.optional("num_key_value_heads", 8) or heads,
    head_dim=fields.optional("head_dim", 64) or fields.whole("hidden_size") // heads,
    rope=rope(fields, 150000.0, context=context),
    qkv_bias=bias,
    output_bias=bias,
    sinks=True,
  )
  experts = MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=fields.whole("num_experts_per_tok", "experts_per_token"),
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="softmax", renormalize=True),
    router_bias=True,
    bias=True,
    activation=ClampedSwiGLU(
      alpha=float(fields.optional("swiglu_alpha", 1.702)), limit=float(fields.optional("swiglu_limit", 7.0))
    ),
  )
  layers = (
    LayerSpec(attention=dataclasses.replace(attention, window=window), ffn=experts) for window in _windows(fields)
  )
  return DecoderSpec(
    family="gpt_oss",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.optional("rms_norm_eps", 1e-5),
    tied=fields.optional("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _windows(fields: Fields) -> list[int | None]:
  by_turns = [("sliding_attention", "full_attention")[i % 2] for i in range(fields.whole("num_hidden_layers"))]
  kinds = layer_types(fields, by_turns, ("sliding_attention", "full_attention"))
  window = fields.optional("sliding_window", 128)
  return [window if kind == "sliding_attention" else None for kind in kinds]
