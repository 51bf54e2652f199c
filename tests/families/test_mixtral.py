from lynx_jax.models.families import spec_from_config
from tests.families.cases import MIXTRAL
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestMixtral(FamilySuite):
  cases = MIXTRAL
  required = (*REQUIRED_BY_ALL, "intermediate_size", "num_local_experts")
  refused = (*REFUSED_BY_ALL, ("attention_bias", True))


def test_null_key_value_heads_means_one_for_each_query_head():
  config = written_config(MIXTRAL[0]) | {"num_key_value_heads": None}
  assert attention_of(spec_from_config(config)).kv_heads == config["num_attention_heads"]


def test_a_window_as_long_as_the_prompt_is_kept():
  assert attention_of(spec_from_config(written_config(MIXTRAL[1]))).window == 5
