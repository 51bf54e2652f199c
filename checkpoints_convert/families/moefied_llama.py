"""The tensors of a llama cut into experts: experts under `mlp.experts.E`, the part that always runs beside them."""

from checkpoints_convert.families.common import decoder_rules, dense, experts_apart, experts_fused
from checkpoints_convert.rules import Rule, RuleTable
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of files with three tensors an expert, or (`fused`) with two a layer."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    shared = dense(f"{ours}.shared", f"{theirs}.shared_expert")
    if fused:
      return (*experts_fused(ours, theirs), *shared)
    apart = experts_apart(ours, theirs, layer.ffn.experts, gate="gate_proj", up="up_proj", down="down_proj")
    return (*apart, *shared)

  return decoder_rules(spec, ffn)
