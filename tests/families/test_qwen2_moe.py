import pytest

from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from tests.families.cases import QWEN2_MOE
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestQwen2Moe(FamilySuite):
  cases = QWEN2_MOE
  required = (*REQUIRED_BY_ALL, "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts")
  refused = (*REFUSED_BY_ALL, ("decoder_sparse_step", 0), ("layer_types", ["sliding_attention", "full_attention"]))


def test_windows_and_experts_are_those_of_each_layer():
  spec = spec_from_config(written_config(QWEN2_MOE[2]))
  assert [attention_of(spec, layer).window for layer in range(3)] == [5, None, 5]
  assert spec.moe_layers == (1,)
  moe = spec.layers[1].ffn
  assert isinstance(moe, MoESpec)
  assert moe.shared == DenseSpec(width=32)


def test_a_window_without_the_layers_that_slide_is_refused():
  config = written_config(QWEN2_MOE[2])
  del config["layer_types"]
  with pytest.raises(ValueError, match=r"use_sliding_window to True: not supported; supported: .*layer_types"):
    spec_from_config(config)
