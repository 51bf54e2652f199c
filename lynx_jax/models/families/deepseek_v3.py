"""DeepSeek-V3 and R1: as V2, with sigmoid gates and a bias that takes part in the choice of experts and not in weights.

The router takes the sigmoid of each expert's logit, adds a correction bias, keeps the `topk_group` groups whose best
two sum highest, and takes the best `num_experts_per_tok` there; their raw sigmoids, divided by their sum
(`norm_topk_prob`) and times `routed_scaling_factor`, are the weights. A Lynx policy bins, votes and ranks by the logits
that would order experts as score plus bias does, over a row's own groups; substitutes are weighed by their raw
sigmoids, with the total that the model's own choice had. Shared experts are always on.

Tensors: as V2's, and the correction bias. Released checkpoints have one layer more than `num_hidden_layers`: it
predicts a second token (multi-token prediction) and is not run here.

Reference: transformers, `models/deepseek_v3/modeling_deepseek_v3.py`; arXiv 2412.19437.
"""

from collections.abc import Mapping
from typing import Any

from checkpoints_convert.rules import Ignored, RuleTable, Shapes
from lynx_jax.models.families import deepseek_v2
from lynx_jax.models.families.family import Family
from lynx_jax.models.families.fields import Fields
from lynx_jax.models.families.mla_fields import latent_decoder, shared_experts
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` deepseek_v3 describes."""
  fields = Fields("deepseek_v3", config)
  fields.only("scoring_func", ("sigmoid",), "sigmoid")
  fields.only("topk_method", ("noaux_tc",), "noaux_tc")
  experts = MoESpec(
    experts=fields.whole("n_routed_experts", "num_local_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("moe_intermediate_size"),
    router=Router(
      scoring="sigmoid",
      renormalize=fields.flag("norm_topk_prob", True),
      scale=fields.number("routed_scaling_factor", 2.5),
      groups=fields.whole_or("n_group", 8),
      groups_kept=fields.whole_or("topk_group", 4),
      group_score="top2_sum",
    ),
    selection_bias=True,
    shared=shared_experts(fields, 1),
  )
  neighbours = fields.flag("rope_interleave", True)
  return latent_decoder(fields, experts, dense_layers=3, context=4096, stop_id=1, neighbours=neighbours)


def rules(spec: DecoderSpec, found: Shapes) -> RuleTable:
  """The tensor names."""
  extra = Ignored(rf"model\.layers\.{len(spec.layers)}\..*", "multi-token prediction, which decoding does without")
  return (*deepseek_v2.rules(spec, found), extra)


FAMILY = Family(name="deepseek_v3", spec=spec, rules=rules)
