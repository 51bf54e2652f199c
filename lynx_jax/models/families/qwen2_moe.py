"""Qwen2-MoE (Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B): a shared expert behind a sigmoid gate; q, k, v biases, none of o.

Router: softmax over all experts, the top k as they are (`norm_topk_prob` false), or divided by their sum. Published
Lynx knobs: alpha 3, beta 4 (Qwen2-57B-A14B). Reference: transformers, `models/qwen2_moe/modeling_qwen2_moe.py`; arXiv
2407.10671. Tensors: experts under `mlp.experts.E`, the shared one and its gate beside them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, layer_types, stop_ids
from lynx_jax.models.families.qwen_layers import ffns
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.families.tensor_names import decoder_rules, dense, expert_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` qwen2_moe describes."""
  fields = Fields("qwen2_moe", config)
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 32768)
  attention = AttentionSpec(
    heads=fields.whole("num_attention_heads"),
    kv_heads=fields.whole_or("num_key_value_heads", 16),
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
    qkv_bias=fields.flag("qkv_bias", True),
  )
  experts = functools.partial(
    MoESpec,
    router=Router(scoring="softmax", renormalize=fields.flag("norm_topk_prob", False)),
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
    norm_eps=fields.number("rms_norm_eps", 1e-6),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _windows(fields: Fields) -> list[int | None]:
  layers = layer_count(fields)
  if not fields.flag("use_sliding_window", False):
    layer_types(fields, ["full_attention"] * layers, ("full_attention",))
    return [None] * layers
  if fields.words("layer_types") is None:
    # transformers 4 slid the window from `max_window_layers` on, transformers 5 in every second layer before it.
    raise fields.unsupported("use_sliding_window", True, "true where layer_types says which layers slide")
  kinds = layer_types(fields, (), ("full_attention", "sliding_attention"))
  window = fields.maybe_whole("sliding_window", 4096)
  return [window if kind == "sliding_attention" else None for kind in kinds]


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    return (
      *expert_rules(ours, theirs, layer.ffn, found),
      *dense(f"{ours}.shared", f"{theirs}.shared_expert"),
      Rule(f"{ours}.shared_gate", f"{theirs}.shared_expert_gate.weight"),
    )

  return decoder_rules(spec, ffn)


FAMILY = Family(name="qwen2_moe", spec=spec, rules=rules)
