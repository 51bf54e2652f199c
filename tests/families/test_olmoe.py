import pytest

from lynx_jax.models.families import spec_from_config
from tests.families.cases import OLMOE, OLMOE_ONE_HEAD, Case
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, written_config


class TestOlmoe(FamilySuite):
  cases = OLMOE
  required = (*REQUIRED_BY_ALL, "intermediate_size", "num_experts")
  refused = (*REFUSED_BY_ALL, ("sliding_window", 4096), ("head_dim", 32))


def test_heads_that_do_not_share_out_the_width_are_an_error():
  with pytest.raises(ValueError, match=r"hidden_size to 66.*a multiple of num_attention_heads 4"):
    spec_from_config(written_config(OLMOE[0]) | {"hidden_size": 66})


@pytest.mark.parametrize("case", OLMOE_ONE_HEAD, ids=str)
def test_one_head_is_normed_before_the_clip(case: Case):
  TestOlmoe().test_logits_equal_those_of_transformers(case)
