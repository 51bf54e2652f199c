"""Llama 4's tensors: experts transposed, inputs before outputs; rotary positions turn neighbours of a head.

The released files hold a vision model too, and the text's names begin with `language_model.`. An export has the names
of the text alone, as transformers' `Llama4ForCausalLM` has them.
"""

from checkpoints_convert.families.common import decoder_rules, dense
from checkpoints_convert.rules import Ignored, Rule, RuleTable, Transpose
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec

BESIDE_TEXT = "language_model."
_VISION = Ignored(r"(vision_model|multi_modal_projector)\..*", "the vision model, of which nothing is read")


def rules(spec: DecoderSpec, *, fused: bool = False, prefix: str = "") -> RuleTable:
  """The rules of a text model's files, or (`prefix` is `BESIDE_TEXT`) of the text part of a larger one's."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"{prefix}model.layers.{index}.feed_forward"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    return (
      Rule(f"{ours}.router", f"{theirs}.router.weight"),
      Rule(f"{ours}.gate_up", Transpose(f"{theirs}.experts.gate_up_proj")),
      Rule(f"{ours}.down", Transpose(f"{theirs}.experts.down_proj")),
      *dense(f"{ours}.shared", f"{theirs}.shared_expert"),
    )

  table = decoder_rules(spec, ffn, prefix=prefix, pairs=True)
  return (*table, _VISION) if prefix else table
