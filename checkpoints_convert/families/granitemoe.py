"""Granite MoE's tensors: each layer's experts in two, `input_linear` (gate rows first) and `output_linear`."""

from checkpoints_convert.families.common import decoder_rules, experts_fused
from checkpoints_convert.rules import Rule, RuleTable
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files, or (`fused`) of the names that transformers 5 has in memory."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.block_sparse_moe"
    if fused:
      return experts_fused(ours, theirs, router="router.weight")
    return (
      Rule(f"{ours}.router", f"{theirs}.router.layer.weight"),
      Rule(f"{ours}.gate_up", f"{theirs}.input_linear.weight"),
      Rule(f"{ours}.down", f"{theirs}.output_linear.weight"),
    )

  return decoder_rules(spec, ffn)
