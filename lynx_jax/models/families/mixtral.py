"""Mixtral: every layer has experts, the router renormalises its top-k; optionally a sliding window.

Tensors: experts under `block_sparse_moe`, where `w1` is the gate, `w3` up and `w2` down; transformers 5 may write them
fused, under `mlp`. Reference: transformers, `models/mixtral/modeling_mixtral.py`; arXiv 2401.04088.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import plain_theta, rope
from lynx_jax.models.families.tensor_names import decoder_rules, experts_apart, experts_fused, fused
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` mixtral describes."""
  fields = Fields("mixtral", config)
  check_common(fields)
  context = fields.whole_or("max_position_embeddings", 131072)
  fields.only("attention_bias", (False,), False)
  heads = fields.whole("num_attention_heads")
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.maybe_whole("num_key_value_heads", 8) or heads,
    head_dim=head_dim(fields),
    rope=rope(fields, 1e6, context=context),
    window=fields.maybe_whole("sliding_window", None),
  )
  experts = MoESpec(
    experts=fields.whole("num_local_experts", "num_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("intermediate_size"),
    router=Router(scoring="softmax", renormalize=True),
  )
  return DecoderSpec(
    family="mixtral",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields),
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", False),
    context=context,
    stop_ids=stop_ids(fields, 2),
  )


def config(model: DecoderSpec) -> dict[str, Any]:
  """The `config.json` of `model`, for writing a model of one's own; `spec(config(x)) == x`.

  Raises:
    ValueError: the layers differ, or have what a Mixtral configuration cannot say.
  """
  layer = model.layers[0]
  attention, experts = layer.attention, layer.ffn
  if len(set(model.layers)) != 1 or not isinstance(experts, MoESpec) or not experts.router.renormalize:
    raise ValueError("a Mixtral configuration needs equal layers of experts whose weights sum to 1")
  if not isinstance(attention, AttentionSpec):
    raise ValueError("a Mixtral configuration has grouped-query attention, not latent attention")
  if attention.qk_norm != "none" or attention.qkv_bias or attention.output_bias:
    raise ValueError("a Mixtral configuration has no norms of queries and keys, and no biases")
  written = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "vocab_size": model.vocab,
    "hidden_size": model.width,
    "num_hidden_layers": len(model.layers),
    "num_attention_heads": attention.heads,
    "num_key_value_heads": attention.kv_heads,
    "head_dim": attention.head_dim,
    "hidden_act": "silu",
    "rope_theta": plain_theta(attention),
    "sliding_window": attention.window,
    "num_local_experts": experts.experts,
    "num_experts_per_tok": experts.top_k,
    "intermediate_size": experts.expert_width,
    "rms_norm_eps": model.norm_eps,
    "tie_word_embeddings": model.tied,
    "max_position_embeddings": model.context,
    "eos_token_id": list(model.stop_ids) or None,
  }
  if spec(written) != model:
    raise ValueError(f"a Mixtral configuration cannot say all of {model!r}")
  return written


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}"
    if fused(found):
      return experts_fused(ours, f"{theirs}.mlp")
    return experts_apart(ours, f"{theirs}.block_sparse_moe", layer.ffn.experts, gate="w1", up="w3", down="w2")

  return decoder_rules(spec, ffn)


FAMILY = Family(name="mixtral", spec=spec, rules=rules, config=config)
