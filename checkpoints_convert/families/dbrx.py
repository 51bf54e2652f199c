"""DBRX's tensors: `transformer.blocks`, one projection to queries, keys and values, all experts in three matrices.

`w1` (gate), `v1` (up) and `w2` (down) are [E * F, D], expert after expert; `w2` is transposed.
"""

from checkpoints_convert.rules import Join, Merge, Rule, RuleTable, Transpose
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files, which transformers names alike."""
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
