import pytest

from lynx_jax.models.dense import DenseSpec
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from tests.families.cases import QWEN3_MOE
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestQwen3Moe(FamilySuite):
  cases = QWEN3_MOE
  required = (*REQUIRED_BY_ALL, "moe_intermediate_size", "num_local_experts")
  refused = (*REFUSED_BY_ALL, ("decoder_sparse_step", 0))


def test_dense_layers_are_those_listed_and_those_between_the_sparse_steps():
  config = written_config(QWEN3_MOE[0])
  layers = {"num_hidden_layers": 6, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
  spec = spec_from_config(config | layers)
  assert spec.moe_layers == (1, 5)
  assert spec.layers[3].ffn == DenseSpec(width=config["intermediate_size"])
  assert isinstance(spec.layers[5].ffn, MoESpec)


def test_a_dense_layer_needs_its_width():
  config = written_config(QWEN3_MOE[2])
  del config["intermediate_size"]
  with pytest.raises(ValueError, match="'intermediate_size'"):
    spec_from_config(config)


def test_a_window_counts_only_where_it_is_switched_on():
  config = written_config(QWEN3_MOE[0]) | {"sliding_window": 7}
  assert attention_of(spec_from_config(config)).window is None
  assert attention_of(spec_from_config(config | {"use_sliding_window": True})).window == 7


def test_a_window_from_some_layer_on_is_refused():
  config = written_config(QWEN3_MOE[3])
  with pytest.raises(ValueError, match="max_window_layers to 28"):
    spec_from_config(config | {"max_window_layers": 28})
