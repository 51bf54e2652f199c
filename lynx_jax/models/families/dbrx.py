"""DBRX: LayerNorm without bias, queries, keys and values clipped, sixteen experts of which a token runs four.

Router: softmax over all experts, the top k divided by their sum (`moe_normalize_expert_weights` 1), or as they are
(null). No knobs are published for Lynx. Its configuration has keys of its own, in two objects. Reference:
transformers, `models/dbrx/modeling_dbrx.py`; https://github.com/databricks/dbrx.

Rotary positions: the released files have the base of their frequencies in `attn_config.rope_theta`, where the model's
own code reads it. transformers 5 reads `rope_parameters` only, takes 10000 where there is none, and writes that 10000
beside the released base when it saves the model again. Such a file is refused, since either base may be meant.

Tensors: the hub and transformers name them alike. One projection makes queries, keys and values. All experts of a
layer lie in three matrices `w1` (gate), `v1` (up) and `w2` (down) [E * F, D], expert after expert; `w2` is transposed.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Join, Merge, Rule, RuleTable, Shapes, Transpose
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields, layer_count, stop_ids
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` dbrx describes."""
  fields = Fields("dbrx", config)
  attention_fields, ffn_fields = fields.inner("attn_config"), fields.inner("ffn_config")
  ffn_fields.only("ffn_act_fn", (None, {"name": "silu"}))
  width, heads = fields.whole("d_model", "hidden_size"), fields.whole("n_heads", "num_attention_heads")
  context = fields.whole_or("max_seq_len", 2048)
  attention = AttentionSpec(
    heads=heads,
    kv_heads=attention_fields.whole_or("kv_n_heads", 1),
    head_dim=width // max(heads, 1),
    rope=_rope(fields, attention_fields, context),
    clip=attention_fields.maybe_number("clip_qkv", None),
  )
  ffn_fields.only("moe_normalize_expert_weights", (1, None), 1)
  renormalize = ffn_fields.maybe_number("moe_normalize_expert_weights", 1) is not None
  experts = MoESpec(
    experts=ffn_fields.whole("moe_num_experts"),
    top_k=ffn_fields.whole("moe_top_k"),
    expert_width=ffn_fields.whole("ffn_hidden_size"),
    router=Router(scoring="softmax", renormalize=renormalize),
  )
  fields.only("tie_word_embeddings", (False,), False)
  return DecoderSpec(
    family="dbrx",
    vocab=fields.whole("vocab_size"),
    width=width,
    layers=(LayerSpec(attention=attention, ffn=experts),) * layer_count(fields, "n_layers"),
    norm="layer",
    norm_eps=1e-5,
    tied=False,
    context=context,
    stop_ids=stop_ids(fields, None),
  )


def _rope(fields: Fields, attention_fields: Fields, context: int) -> RopeSpec:
  released = attention_fields.maybe_number("rope_theta", None)
  found = rope(fields, released or 1e4, context=context)
  if released is not None and released != found.theta:
    raise ValueError(
      f"config.json of family 'dbrx' has two bases of rotary frequencies, attn_config.rope_theta {released} and "
      f"rope_parameters.rope_theta {found.theta}: if transformers 5 saved a released model again, the first is the "
      f"model's own, so set rope_parameters.rope_theta to {released}; to run as transformers 5 does, remove "
      "attn_config.rope_theta"
    )
  return found


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names, of which there is one spelling."""
  table = [
    Rule("embedding", "transformer.wte.weight"),
    Rule("final_norm.scale", "transformer.norm_f.weight"),
    Rule("head", "lm_head.weight"),
  ]
  for index, layer in enumerate(spec.layers):
    ours, theirs = f"layers.{index}", f"transformer.blocks.{index}"
    attention, experts = f"{theirs}.norm_attn_norm", f"{theirs}.ffn.experts.mlp"
    assert isinstance(layer.ffn, MoESpec)
    assert isinstance(layer.attention, AttentionSpec)
    count, heads = layer.ffn.experts, layer.attention
    sizes = tuple(number * heads.head_dim for number in (heads.heads, heads.kv_heads, heads.kv_heads))
    projected = Join(tuple(f"{ours}.attention.{name}" for name in ("query", "key", "value")), sizes=sizes)
    table += [
      Rule(f"{ours}.attention_norm.scale", f"{attention}.norm_1.weight"),
      Rule(projected, f"{attention}.attn.Wqkv.weight"),
      Rule(f"{ours}.attention.output", f"{attention}.attn.out_proj.weight"),
      Rule(f"{ours}.ffn_norm.scale", f"{attention}.norm_2.weight"),
      Rule(f"{ours}.ffn.router", f"{theirs}.ffn.router.layer.weight"),
      Rule(f"{ours}.ffn.gate_up", Join((Merge(f"{experts}.w1", count), Merge(f"{experts}.v1", count)), axis=1)),
      Rule(f"{ours}.ffn.down", Transpose(Merge(f"{experts}.w2", count))),
    ]
  return tuple(table)


FAMILY = Family(name="dbrx", spec=spec, rules=rules)
