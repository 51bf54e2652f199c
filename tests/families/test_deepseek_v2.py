"""DeepSeek-V2 against transformers' class.

The class differs from the code that was released with the checkpoints in one setting: with `norm_topk_prob` that code
divides weights by their sum and leaves `routed_scaling_factor` out, and transformers ignores the setting. No released
model has it, and it is refused here.
"""

import numpy as np

from lynx_jax.models.families import spec_from_config
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.rope import YarnScaling
from lynx_jax.models.sizes import counts
from tests.families.cases import DEEPSEEK_V2
from tests.families.latent_suite import LATENT_REFUSED, LatentSuite, moe_of
from tests.families.suite import written_config

# As deepseek-ai/DeepSeek-V2-Lite has it.
LITE = {
  "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
  "num_attention_heads": 16, "num_key_value_heads": 16, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "v_head_dim": 128, "kv_lora_rank": 512, "q_lora_rank": None, "intermediate_size": 10944,
  "moe_intermediate_size": 1408, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
  "first_k_dense_replace": 1, "moe_layer_freq": 1, "routed_scaling_factor": 1.0, "norm_topk_prob": False,
  "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1, "hidden_act": "silu",
  "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000, "tie_word_embeddings": False,
  "attention_bias": False, "eos_token_id": 100001,
  "rope_scaling": {
    "type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707,
    "original_max_position_embeddings": 4096,
  },
}  # fmt: skip


class TestDeepseekV2(LatentSuite):
  cases = DEEPSEEK_V2
  refused = (*LATENT_REFUSED, ("norm_topk_prob", True))


def test_the_released_lite_model_has_its_published_size_and_a_cache_of_576_numbers_a_layer():
  spec = spec_from_config(LITE)
  size, attention = counts(spec), spec.layers[0].attention
  assert round(size.total / 1e9, 1) == 15.7
  assert round(size.active / 1e9, 1) == 2.7  # the card's 2.4 leaves the embedding out
  assert size.kv_per_token == (512 + 64) * 27
  assert isinstance(attention, MLASpec)
  assert isinstance(attention.rope.scaling, YarnScaling)
  assert attention.rope.scaling.attention_factor == 1.0
  np.testing.assert_allclose(attention.scale, 192**-0.5 * (0.0707 * np.log(40) + 1) ** 2)


def test_groups_count_only_where_the_method_is_limited_to_them():
  config = written_config(DEEPSEEK_V2[1])
  assert moe_of(config).router.groups == 4
  assert moe_of(config | {"topk_method": "greedy"}).router.groups == 1
