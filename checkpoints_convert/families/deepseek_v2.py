"""DeepSeek-V2's tensors: experts under `mlp.experts.E`, shared ones as one network under `mlp.shared_experts`."""

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
    made = (
      experts_fused(ours, theirs)
      if fused
      else experts_apart(ours, theirs, layer.ffn.experts, gate="gate_proj", up="up_proj", down="down_proj")
    )
    if layer.ffn.shared is not None:
      made += dense(f"{ours}.shared", f"{theirs}.shared_experts")
    if layer.ffn.selection_bias:
      made += (Rule(f"{ours}.selection_bias", f"{theirs}.gate.e_score_correction_bias"),)
    return made

  return decoder_rules(spec, ffn)
