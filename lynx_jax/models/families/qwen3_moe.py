"""Qwen3-MoE: q and k normed per head, an explicit head width; dense layers, biases, sliding window as set.

Reference: transformers, `models/qwen3_moe/modeling_qwen3_moe.py`; arXiv 2505.09388.
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.families.fields import Fields, check_common, head_dim, rope_theta, stop_ids
from lynx_jax.models.spec import AttentionSpec, DecoderSpec, DenseSpec, LayerSpec, MoESpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` qwen3_moe describes."""
  fields = Fields("qwen3_moe", config)
  check_common(fields)
  attention = AttentionSpec(
    heads=fields.whole("num_attention_heads"),
    kv_heads=fields.optional("num_key_value_heads", 4),
    head_dim=head_dim(fields),
    rope_theta=rope_theta(fields, 1e4),
    qk_norm="head",
    bias=fields.optional("attention_bias", False),
    window=_window(fields),
  )
  layers = (LayerSpec(attention=attention, ffn=ffn) for ffn in _ffns(fields))
  return DecoderSpec(
    family="qwen3_moe",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.optional("rms_norm_eps", 1e-6),
    tied=fields.optional("tie_word_embeddings", False),
    context=fields.optional("max_position_embeddings", 32768),
    stop_ids=stop_ids(fields, None),
  )


def _window(fields: Fields) -> int | None:
  if not fields.optional("use_sliding_window", False):
    return None
  # transformers 4.51 slid the window from this layer on, transformers 5 does in every layer: do not guess.
  fields.only("max_window_layers", (None, 0))
  return fields.optional("sliding_window", 4096)


def _ffns(fields: Fields) -> list[MoESpec | DenseSpec]:
  experts = fields.whole("num_local_experts", "num_experts")
  dense = set(fields.optional("mlp_only_layers", None) or ())
  step = fields.optional("decoder_sparse_step", 1)
  if step < 1:
    raise fields.unsupported("decoder_sparse_step", step, "1 or more (every such layer has experts)")

  def ffn(index: int) -> MoESpec | DenseSpec:
    if index in dense or experts == 0 or (index + 1) % step:
      return DenseSpec(width=fields.whole("intermediate_size"))
    return MoESpec(
      experts=experts,
      top_k=fields.whole("num_experts_per_tok"),
      expert_width=fields.whole("moe_intermediate_size"),
      router=Router(scoring="softmax", renormalize=fields.optional("norm_topk_prob", False)),
    )

  return [ffn(index) for index in range(fields.whole("num_hidden_layers"))]
