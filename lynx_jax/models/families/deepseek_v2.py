"""DeepSeek-V2 and V2-Lite: latent attention, dense first layers, shared experts, gates that are not renormalised.

The router takes the softmax over all experts and the best `num_experts_per_tok` of them ("greedy", V2-Lite), or of the
`topk_group` groups with the best single expert ("group_limited_greedy", V2); weights are times
`routed_scaling_factor`. A Lynx policy bins, votes and ranks by the logits, over the experts of a row's own groups;
substitutes carry the total that the model's own choice had. Shared experts are always on.

Tensors: experts under `mlp.experts.E`; shared experts as one network under `mlp.shared_experts`.

Reference: transformers, `models/deepseek_v2/modeling_deepseek_v2.py`; arXiv 2405.04434.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Rule, RuleTable, Shapes
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields
from lynx_jax.models.families.mla_fields import latent_decoder, shared_experts
from lynx_jax.models.families.tensor_names import decoder_rules, dense, expert_rules
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` deepseek_v2 describes."""
  fields = Fields("deepseek_v2", config)
  fields.only("scoring_func", ("softmax",), "softmax")
  # The released code renormalises and leaves the scaling out; transformers ignores the setting. No model sets it.
  fields.only("norm_topk_prob", (False, None), False)
  fields.only("topk_method", ("greedy", "group_limited_greedy"), "greedy")
  grouped = fields.word("topk_method") == "group_limited_greedy"
  experts = MoESpec(
    experts=fields.whole("n_routed_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("moe_intermediate_size"),
    router=Router(
      scoring="softmax",
      renormalize=False,
      scale=fields.number("routed_scaling_factor", 1.0),
      groups=fields.whole("n_group") if grouped else 1,
      groups_kept=fields.whole("topk_group") if grouped else 1,
    ),
    shared=shared_experts(fields, 2),
  )
  return latent_decoder(fields, experts, dense_layers=0, context=2048, stop_id=2, neighbours=True)


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""

  def ffn(index: int, layer: LayerSpec) -> tuple[Rule, ...]:
    ours, theirs = f"layers.{index}.ffn", f"model.layers.{index}.mlp"
    if not isinstance(layer.ffn, MoESpec):
      return dense(ours, theirs)
    table = expert_rules(ours, theirs, layer.ffn, found)
    if layer.ffn.shared is not None:
      table += dense(f"{ours}.shared", f"{theirs}.shared_experts")
    if layer.ffn.selection_bias:
      table += (Rule(f"{ours}.selection_bias", f"{theirs}.gate.e_score_correction_bias"),)
    return table

  return decoder_rules(spec, ffn)


FAMILY = Family(name="deepseek_v2", spec=spec, rules=rules)
