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


def config(spec: DecoderSpec) -> dict[str, Any]:
  """The `config.json` of `spec`, for writing a model of one's own; `spec(config(x)) == x`.

  Raises:
    ValueError: the layers differ in what a Qwen3-MoE configuration has only one of.
  """
  attention = spec.layers[0].attention
  moe = {layer.ffn for layer in spec.layers if isinstance(layer.ffn, MoESpec)}
  dense = {layer.ffn for layer in spec.layers if isinstance(layer.ffn, DenseSpec)}
  if len(moe) != 1 or len(dense) > 1 or any(layer.attention != attention for layer in spec.layers):
    raise ValueError("a Qwen3-MoE configuration needs layers with one kind of attention, experts and dense network")
  (experts,) = moe
  return {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "vocab_size": spec.vocab,
    "hidden_size": spec.width,
    "num_hidden_layers": len(spec.layers),
    "num_attention_heads": attention.heads,
    "num_key_value_heads": attention.kv_heads,
    "head_dim": attention.head_dim,
    "hidden_act": "silu",
    "rope_theta": attention.rope_theta,
    "attention_bias": attention.bias,
    "use_sliding_window": attention.window is not None,
    "sliding_window": attention.window,
    "max_window_layers": 0,
    "num_experts": experts.experts,
    "num_experts_per_tok": experts.top_k,
    "moe_intermediate_size": experts.expert_width,
    "norm_topk_prob": experts.router.renormalize,
    "intermediate_size": next(iter(dense)).width if dense else experts.expert_width,
    "mlp_only_layers": [index for index in range(len(spec.layers)) if index not in spec.moe_layers],
    "decoder_sparse_step": 1,
    "rms_norm_eps": spec.norm_eps,
    "tie_word_embeddings": spec.tied,
    "max_position_embeddings": spec.context,
    "eos_token_id": list(spec.stop_ids) or None,
  }


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
