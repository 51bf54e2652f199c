"""gpt-oss's tensors: experts transposed, inputs before outputs, and gate and up columns taking turns."""

from checkpoints_convert.families.common import decoder_rules
from checkpoints_convert.rules import Interleave, Rule, RuleTable, Transpose
from lynx_jax.models.spec import DecoderSpec, LayerSpec


def rules(spec: DecoderSpec, *, fused: bool = False) -> RuleTable:
  """The rules of the hub's files once their 4-bit blocks are read, which transformers names alike."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    return (
      Rule(f"{ours}.router", f"{theirs}.router.weight"),
      Rule(f"{ours}.router_bias", f"{theirs}.router.bias"),
      Rule(f"{ours}.gate_up", Transpose(Interleave(f"{theirs}.experts.gate_up_proj", axis=2))),
      Rule(f"{ours}.gate_up_bias", Interleave(f"{theirs}.experts.gate_up_proj_bias", axis=1)),
      Rule(f"{ours}.down", Transpose(f"{theirs}.experts.down_proj")),
      Rule(f"{ours}.down_bias", f"{theirs}.experts.down_proj_bias"),
    )

  return decoder_rules(spec, ffn)
