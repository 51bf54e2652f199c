from lynx_jax.models.families import spec_from_config
from tests.families.cases import GRANITEMOE
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, written_config


class TestGraniteMoe(FamilySuite):
  cases = GRANITEMOE
  required = (*REQUIRED_BY_ALL, "intermediate_size", "num_local_experts")
  refused = REFUSED_BY_ALL


def test_absent_multipliers_are_one():
  config = written_config(GRANITEMOE[0])
  for name in ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"):
    del config[name]
  spec = spec_from_config(config)
  assert (spec.embedding_multiplier, spec.residual_multiplier, spec.logits_divisor) == (1.0, 1.0, 1.0)
  assert spec.layers[0].attention.scale == 1.0
