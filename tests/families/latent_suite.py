"""What DeepSeek's families share beyond every family's suite: latent attention's defaults, and groups of experts."""

from typing import Any, ClassVar

import numpy as np

from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from tests.families.cases import Case
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, written_config

LATENT_REQUIRED = (
  *REQUIRED_BY_ALL, "intermediate_size", "moe_intermediate_size", "n_routed_experts", "kv_lora_rank",
  "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim",
)  # fmt: skip
LATENT_REFUSED = (
  *REFUSED_BY_ALL, ("num_key_value_heads", 2), ("moe_layer_freq", 2), ("scoring_func", "relu"), ("topk_method", "best"),
  ("mlp_bias", True), ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
)  # fmt: skip


def moe_of(config: dict[str, Any]) -> MoESpec:
  """The experts of the last layer."""
  ffn = spec_from_config(config).layers[-1].ffn
  assert isinstance(ffn, MoESpec)
  return ffn


class LatentSuite(FamilySuite):
  required: ClassVar[tuple[str, ...]] = LATENT_REQUIRED
  refused: ClassVar[tuple[tuple[str, Any], ...]] = LATENT_REFUSED

  def test_absent_keys_take_the_defaults_of_transformers(self):
    case = self.cases[0]
    minimal = {name: value for name, value in self.config.items() if name in self.required}
    minimal |= {"num_hidden_layers": 5, "n_routed_experts": 64}  # a layer with experts, in as many groups as V3 has
    theirs = type(case.config())(**minimal | {"num_key_value_heads": None})
    spec = spec_from_config({"model_type": case.family, **minimal, "eos_token_id": None})
    attention, ffn = spec.layers[0].attention, spec.layers[-1].ffn
    assert isinstance(attention, MLASpec)
    assert isinstance(ffn, MoESpec)
    assert attention.query_rank == theirs.q_lora_rank
    assert attention.rope.theta == theirs.rope_parameters["rope_theta"]
    assert attention.neighbours == getattr(theirs, "rope_interleave", True)
    assert attention.bias == theirs.attention_bias
    assert attention.scale == theirs.qk_head_dim**-0.5
    assert sum(isinstance(layer.ffn, DenseSpec) for layer in spec.layers) == theirs.first_k_dense_replace
    assert ffn.shared == DenseSpec(width=theirs.n_shared_experts * theirs.moe_intermediate_size)
    assert ffn.router.renormalize == theirs.norm_topk_prob
    assert ffn.router.scale == theirs.routed_scaling_factor
    assert (ffn.router.groups, ffn.router.groups_kept) == (theirs.n_group or 1, theirs.topk_group or 1)
    assert (spec.norm_eps, spec.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert spec.context == theirs.max_position_embeddings

  def test_no_shared_experts_is_no_network(self):
    assert moe_of(self.config | {"n_shared_experts": None}).shared is None

  def test_the_softmax_scale_follows_mscale_all_dim_alone(self, case: Case):
    config = case.config()
    rope, attention = config.rope_parameters, spec_from_config(written_config(case)).layers[0].attention
    weight = rope.get("mscale_all_dim") or 0.0
    magnitude = 0.1 * weight * np.log(rope.get("factor", 1.0)) + 1.0
    assert isinstance(attention, MLASpec)
    np.testing.assert_allclose(attention.scale, config.qk_head_dim**-0.5 * magnitude**2, rtol=1e-12)
