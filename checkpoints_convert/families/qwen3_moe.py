"""Qwen3-MoE's tensors: experts under `mlp.experts.E`; a dense layer's projections right under `mlp`."""

from checkpoints_convert.families.common import decoder_rules, dense, experts_apart, experts_fused
from checkpoints_convert.rules import Rule, RuleTable
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files, or (`fused`) of those that keep each layer's experts in two tensors."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    if fused:
      return experts_fused(ours, theirs)
    return experts_apart(ours, theirs, layer.ffn.experts, gate="gate_proj", up="up_proj", down="down_proj")

  return decoder_rules(spec, ffn)
