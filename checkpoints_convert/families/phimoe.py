"""Phi-3.5-MoE's tensors: Mixtral's names, with biases of norms, attention and head."""

from checkpoints_convert.families.common import decoder_rules, experts_apart, experts_fused
from checkpoints_convert.rules import Rule, RuleTable
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files, or (`fused`) of those that keep each layer's experts in two tensors."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    assert isinstance(layer.ffn, MoESpec)
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}"
    if fused:
      return experts_fused(ours, f"{theirs}.mlp", router="router.weight")
    return experts_apart(ours, f"{theirs}.block_sparse_moe", layer.ffn.experts, gate="w1", up="w3", down="w2")

  return decoder_rules(spec, ffn)
