"""gpt-oss: a learned sink a head, sliding and full attention by turns, biases throughout, a clamped SwiGLU.

Router: the top k logits (with their bias), then their softmax, which is the softmax over all experts divided by the
top k's sum. Rotary positions are YaRN's without rounding. Published Lynx knobs: alpha 3, beta 2 (gpt-oss-120b).
Reference: transformers, `models/gpt_oss/modeling_gpt_oss.py`; arXiv 2508.10925.

Tensors: the hub's files, once their 4-bit blocks are read, and transformers' have one spelling. Experts are transposed,
inputs before outputs, and columns of gate and up alternate.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Interleave, Rule, RuleTable, Shapes, Transpose
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, layer_count, layer_types, stop_ids
from lynx_jax.models.families.rope_fields import rope, rope_object
from lynx_jax.models.families.tensor_names import decoder_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router
from pallas_kernels.activations import ClampedSwiGLU

_DEFAULT_ROPE = {
  "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
  "original_max_position_embeddings": 4096,
}  # fmt: skip


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` gpt_oss describes."""
  fields = Fields("gpt_oss", config)
  if not rope_object(fields).values:
    fields = Fields("gpt_oss", {**config, "rope_parameters": _DEFAULT_ROPE})
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 131072)
  heads, bias = fields.whole("num_attention_heads"), fields.flag("attention_bias", True)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", 8) or heads,
    head_dim=fields.maybe_whole("head_dim", 64) or fields.whole("hidden_size") // max(heads, 1),
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
    activation=ClampedSwiGLU(alpha=fields.number("swiglu_alpha", 1.702), limit=fields.number("swiglu_limit", 7.0)),
  )
  layers = (
    LayerSpec(attention=dataclasses.replace(attention, window=window), ffn=experts) for window in _windows(fields)
  )
  return DecoderSpec(
    family="gpt_oss",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=tuple(layers),
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _windows(fields: Fields) -> list[int | None]:
  by_turns = [("sliding_attention", "full_attention")[i % 2] for i in range(layer_count(fields))]
  kinds = layer_types(fields, by_turns, ("sliding_attention", "full_attention"))
  window = fields.maybe_whole("sliding_window", 128)
  return [window if kind == "sliding_attention" else None for kind in kinds]


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names, of which there is one spelling."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    return (
      Rule(f"{ours}.router", f"{theirs}.router.weight"),
      Rule(f"{ours}.router_bias", f"{theirs}.router.bias"),
      Rule(f"{ours}.gate_up", Transpose(Interleave(f"{theirs}.experts.gate_up_proj", axis=2))),
      Rule(f"{ours}.gate_up_bias", Interleave(f"{theirs}.experts.gate_up_proj_bias", axis=1)),
      Rule(f"{ours}.down", Transpose(f"{theirs}.experts.down_proj")),
      Rule(f"{ours}.down_bias", f"{theirs}.experts.down_proj_bias"),
    )

  return decoder_rules(spec, ffn)


FAMILY = Family(name="gpt_oss", spec=spec, rules=rules)
