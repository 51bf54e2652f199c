"""A llama whose feed-forward parts were cut into a part that always runs and experts: a form of this library's own.

transformers does not know it; `experiments/moefy_smollm2.py` makes one from a dense model. A token runs `top_k` experts
of largest logit beside the shared part, and every one of them weighs exactly 1, since experts are a partition of the
dense network: with all of them on, this is the dense model. The softmax of the router's logits is trained to be the
norm of what each expert adds, in shares: what policies take for weights is how much an expert matters, and a substitute
weighs 1 as well (arXiv 2110.01786 cuts a network so).
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families.fields import Fields, check_common, head_dim, stop_ids
from lynx_jax.models.families.rope_fields import plain_theta, rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


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
    layers=(LayerSpec(attention=attention, ffn=experts),) * fields.whole("num_hidden_layers"),
    norm_eps=fields.optional("rms_norm_eps", 1e-5),
    tied=fields.optional("tie_word_embeddings", True),
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
