"""DeepSeek-V2 and V2-Lite: latent attention, dense first layers, shared experts, gates that are not renormalised.

The router takes the softmax over all experts and the best `num_experts_per_tok` of them ("greedy", V2-Lite), or of the
`topk_group` groups with the best single expert ("group_limited_greedy", V2); weights are times
`routed_scaling_factor`. A Lynx policy bins, votes and ranks by the logits, over the experts of a row's own groups;
substitutes carry the total that the model's own choice had. Shared experts are always on.

Reference: transformers, `models/deepseek_v2/modeling_deepseek_v2.py`; arXiv 2405.04434.
"""

from collections.abc import Mapping
from typing import Any

from lynx_jax.models.families.fields import Fields
from lynx_jax.models.families.mla_fields import latent_decoder, shared_experts
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.spec import DecoderSpec
from lynx_jax.routing.base import Router


def spec(config: Mapping[str, Any]) -> DecoderSpec:
  """The decoder that a `config.json` of `model_type` deepseek_v2 describes."""
  fields = Fields("deepseek_v2", config)
  fields.only("scoring_func", ("softmax",), "softmax")
  # The released code renormalises and leaves the scaling out; transformers ignores the setting. No model sets it.
  fields.only("norm_topk_prob", (False, None), False)
  fields.only("topk_method", ("greedy", "group_limited_greedy"), "greedy")
  grouped = fields.optional("topk_method", "greedy") == "group_limited_greedy"
  experts = MoESpec(
    experts=fields.whole("n_routed_experts"),
    top_k=fields.whole("num_experts_per_tok"),
    expert_width=fields.whole("moe_intermediate_size"),
    router=Router(
      scoring="softmax",
      renormalize=False,
      scale=fields.optional("routed_scaling_factor", 1.0),
      groups=fields.whole("n_group") if grouped else 1,
      groups_kept=fields.whole("topk_group") if grouped else 1,
    ),
    shared=shared_experts(fields, 2),
  )
  return latent_decoder(fields, experts, dense_layers=0, context=2048, stop_id=2, neighbours=True)
