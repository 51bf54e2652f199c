"""DBRX: LayerNorm without bias, queries, keys and values clipped, sixteen experts of which a token runs four.

Router: softmax over all experts, the top k divided by their sum (`moe_normalize_expert_weights` 1), or as they are
(null). No knobs are published for Lynx. Its configuration has keys of its own, in two dictionaries. Reference:
transformers, `models/dbrx/modeling_dbrx.py`; https://github.com/databricks/dbrx.

The released files have the base of their rotary frequencies in `attn_config.rope_theta`, where the model's own code
reads it; transformers 5 reads `rope_parameters` alone, and takes 10000 without it. A file that has both must agree.
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` dbrx describes."""
  fields = Fields("dbrx", config)
  attention_fields, ffn_fields = (Fields("dbrx", config.get(name) or {}) for name in ("attn_config", "ffn_config"))
  activation = ffn_fields.optional("ffn_act_fn", None)
  if activation not in (None, {"name": "silu"}):
    raise fields.unsupported("ffn_act_fn", activation, "{'name': 'silu'}")
  width, heads = fields.whole("d_model", "hidden_size"), fields.whole("n_heads", "num_attention_heads")
  context = fields.optional("max_seq_len", 2048)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=attention_fields.optional("kv_n_heads", 1),
    head_dim=width // heads,
    rope=_rope(fields, attention_fields, context),
    clip=attention_fields.optional("clip_qkv", None),
  )
  power = ffn_fields.optional("moe_normalize_expert_weights", 1.0)
  if power not in (None, 1):
    raise fields.unsupported("moe_normalize_expert_weights", power, "1 or null")
  experts = MoESpec(
    experts=ffn_fields.whole("moe_num_experts"),
    top_k=ffn_fields.whole("moe_top_k"),
    expert_width=ffn_fields.whole("ffn_hidden_size"),
    router=Router(scoring="softmax", renormalize=power is not None),
  )
  fields.only("tie_word_embeddings", (False,), False)
  return DecoderSpec(
    family="dbrx",
    vocab=fields.whole("vocab_size"),
    width=width,
    layers=(LayerSpec(attention=attention, ffn=experts),) * fields.whole("n_layers", "num_hidden_layers"),
    norm="layer",
    norm_eps=1e-5,
    tied=False,
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _rope(fields: Fields, attention_fields: Fields, context: int) -> RopeSpec:
  inner = attention_fields.optional("rope_theta", None)
  found = rope(fields, inner or 1e4, context=context)
  if inner is not None and inner != found.theta:
    raise fields.unsupported("attn_config.rope_theta", inner, f"{found.theta}, which the file says outside, or nothing")
  return found
