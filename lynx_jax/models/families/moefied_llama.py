"""A Llama whose MLPs were split into one always-active part and several experts. The format is this library's own.

transformers does not know it; `experiments/moefy_smollm2.py` makes one from a dense model. A token runs the shared part
and the `num_experts_per_tok` experts of largest logit. Every one of them weighs exactly 1: the experts are a partition
of the dense network, which is what all of them together compute. The router is trained so that the softmax of its
logits gives each expert's share of the norm that all experts add. Policies take these shares for weights, so an
expert's weight is how much it matters; a substitute weighs 1 as well (arXiv 2110.01786 splits networks this way).

Tensors: experts under `mlp.experts.E`, the part that always runs under `mlp.shared_expert`.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, check_common, head_dim, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import plain_theta, rope
from lynx_jax.models.families.tensor_names import decoder_rules, dense, expert_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` moefied_llama describes."""
  fields = Fields("moefied_llama", config)
  check_common(fields)
  heads, context = fields.whole("num_attention_heads"), fields.whole("max_position_embeddings")
  attention = AttentionSpec(
    heads=heads,
    kv_heads=fields.whole("num_key_value_heads"),
    head_dim=head_dim(fields),
    rope=rope(fields, 1e4, context=context),
  )
  experts = MoESpec(
    experts=fields.whole("num_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("moe_intermediate_size"),
    router=Router(unit_weights=True),
    shared=DenseSpec(width=fields.whole("shared_expert_intermediate_size")),
  )
  return DecoderSpec(
    family="moefied_llama",
    vocab=fields.whole("vocab_size"),
    width=fields.whole("hidden_size"),
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields),
    norm_eps=fields.number("rms_norm_eps", 1e-5),
    tied=fields.flag("tie_word_embeddings", True),
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def config(spec: DecoderSpec) -> dict[str, Any]:
  """The `config.json` of `spec`; `spec(config(x)) == x`.

  Raises:
    ValueError: the layers differ, or are of another form.
  """
  layer = spec.layers[0]
  attention, experts = layer.attention, layer.ffn
  if len(set(spec.layers)) != 1 or not isinstance(experts, MoESpec) or experts.shared is None:
    raise ValueError("a moefied_llama configuration needs equal layers of experts beside a shared part")
  if not isinstance(attention, AttentionSpec) or not experts.router.unit_weights:
    raise ValueError("a moefied_llama configuration needs grouped-query attention and experts that weigh 1")
  return {
    "architectures": ["MoefiedLlamaForCausalLM"],
    "model_type": "moefied_llama",
    "vocab_size": spec.vocab,
    "hidden_size": spec.width,
    "num_hidden_layers": len(spec.layers),
    "num_attention_heads": attention.heads,
    "num_key_value_heads": attention.kv_heads,
    "head_dim": attention.head_dim,
    "hidden_act": "silu",
    "rope_theta": plain_theta(attention),
    "num_experts": experts.experts,
    "num_experts_per_tok": experts.top_k,
    "moe_intermediate_size": experts.expert_width,
    "shared_expert_intermediate_size": experts.shared.width,
    "rms_norm_eps": spec.norm_eps,
    "tie_word_embeddings": spec.tied,
    "max_position_embeddings": spec.context,
    "eos_token_id": list(spec.stop_ids) or None,
  }


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    return (*expert_rules(ours, theirs, layer.ffn, found), *dense(f"{ours}.shared", f"{theirs}.shared_expert"))

  return decoder_rules(spec, ffn)


FAMILY = Family(name="moefied_llama", spec=spec, rules=rules, config=config)
