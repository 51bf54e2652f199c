"""DeepSeek-V3's tensors: V2's, and a layer past the last that predicts a second token, which is not run."""

from checkpoints_convert.families import deepseek_v2
from checkpoints_convert.rules import Ignored, RuleTable
from lynx_jax.models.spec import DecoderSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files, or (`fused`) of those that keep each layer's experts in two tensors."""
  extra = Ignored(rf"model\.layers\.{len(spec.layers)}\..*", "multi-token prediction, which decoding does without")
  return (*deepseek_v2.rules(spec, fused=fused), extra)
