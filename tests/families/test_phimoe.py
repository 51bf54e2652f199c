import pytest

from lynx_jax.models.families import spec_from_config
from lynx_jax.models.rope import LongScaling
from tests.families.cases import PHIMOE
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestPhimoe(FamilySuite):
  cases = PHIMOE
  required = (
    *[key for key in REQUIRED_BY_ALL if key != "num_experts_per_tok"], "intermediate_size", "num_local_experts"
  )  # fmt: skip
  refused = (
    *REFUSED_BY_ALL,
    ("rope_scaling", {"type": "yarn", "factor": 2.0}),
    ("router_jitter_noise", 0.1),
    ("num_experts_per_tok", 1),
  )
  renormalizes = False


def test_magnitudes_are_those_that_the_file_gives():
  rope = attention_of(spec_from_config(written_config(PHIMOE[0]))).rope
  assert rope is not None
  scaling = rope.scaling
  assert isinstance(scaling, LongScaling)
  assert (scaling.short_attention_factor, scaling.long_attention_factor) == (1.1, 1.3)
  config = written_config(PHIMOE[0])
  del config["rope_parameters"]["long_mscale"]
  with pytest.raises(ValueError, match="rotary embedding 'longrope' without 'long_mscale': add it"):
    spec_from_config(config)
