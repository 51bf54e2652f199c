from lynx_jax.models.families import spec_from_config
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import YarnScaling
from pallas_kernels.activations import ClampedSwiGLU
from tests.families.cases import GPT_OSS
from tests.families.suite import REFUSED_BY_ALL, REQUIRED_BY_ALL, FamilySuite, attention_of, written_config


class TestGptOss(FamilySuite):
  cases = GPT_OSS
  required = (*REQUIRED_BY_ALL, "intermediate_size", "num_local_experts")
  refused = (
    *REFUSED_BY_ALL,
    ("layer_types", ["sliding_attention"]),
    ("layer_types", ["chunked_attention", "full_attention"]),
  )


def windows(config):
  spec = spec_from_config(config)
  return [attention_of(spec, layer).window for layer in range(len(spec.layers))]


def test_windows_take_turns_where_no_layer_is_listed():
  config = written_config(GPT_OSS[1])
  assert windows(config) == [None, 4]
  del config["layer_types"]
  assert windows(config) == [4, None]


def test_absent_rotary_positions_and_activation_are_the_released_ones():
  config = written_config(GPT_OSS[0])
  for name in ("rope_parameters", "swiglu_alpha", "swiglu_limit"):
    del config[name]
  spec = spec_from_config(config)
  moe, rope = spec.layers[0].ffn, spec.layers[0].attention.rope
  assert isinstance(moe, MoESpec)
  assert moe.activation == ClampedSwiGLU(alpha=1.702, limit=7.0)
  assert rope is not None
  scaling = rope.scaling
  assert isinstance(scaling, YarnScaling)
  assert (scaling.factor, scaling.original_context, scaling.truncate) == (32.0, 4096, False)
