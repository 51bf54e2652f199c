"""Frequencies and magnitudes against transformers' own functions; what a turn does to a head."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.families.fields import Fields
from lynx_jax.models.families.rope_fields import rope
from lynx_jax.models.rope import LongScaling, RopeSpec, Rotary, YarnScaling, frequencies, rotation_at

HEAD_DIM, CONTEXT = 64, 4096
_LONG = {
  "rope_type": "longrope",
  "short_factor": [1.0 + i / 50 for i in range(HEAD_DIM // 2)],
  "long_factor": [1.0 + i for i in range(HEAD_DIM // 2)],
  "original_max_position_embeddings": 512,
}
PARAMETERS = (
  {"rope_type": "linear", "factor": 4.0},
  {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
  {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 1024, "mscale": 0.7, "mscale_all_dim": 0.5},
  {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5, "beta_fast": 20.0, "beta_slow": 19.9},
  {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
  },
  {
    "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
    "original_max_position_embeddings": 1024,
  },
  _LONG,
  _LONG | {"attention_factor": 1.25, "factor": 2.0},
)  # fmt: skip


def parsed(parameters):
  config = {"rope_parameters": parameters | {"rope_theta": 5e5}}
  return rope(Fields("mixtral", config), 1e4, context=CONTEXT)


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda parameters: parameters["rope_type"])
@pytest.mark.parametrize("length", [16, 600])
def test_frequencies_and_magnitude_are_those_of_transformers(parameters, length):
  config = transformers.MixtralConfig(
    hidden_size=4 * HEAD_DIM, num_attention_heads=4, head_dim=HEAD_DIM, max_position_embeddings=CONTEXT,
    rope_parameters=parameters | {"rope_theta": 5e5},
  )  # fmt: skip
  theirs, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, seq_len=length)
  ours = parsed(parameters)
  beyond = length > parameters.get("original_max_position_embeddings", CONTEXT)
  np.testing.assert_allclose(frequencies(ours, HEAD_DIM, beyond=beyond), theirs.numpy(), rtol=1e-6)
  positions, lengths = jnp.asarray([[0, 3]], jnp.int32), jnp.asarray([length], jnp.int32)
  rotation = rotation_at(positions, lengths, Rotary(HEAD_DIM, ours))
  np.testing.assert_allclose(rotation.cos[0, 0], magnitude, rtol=1e-6)
  angles = 3 * theirs
  np.testing.assert_allclose(rotation.cos[0, 1], torch.cos(angles).numpy() * magnitude, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(rotation.sin[0, 1], torch.sin(angles).numpy() * magnitude, rtol=1e-5, atol=1e-6)


def test_a_yarn_without_a_factor_takes_the_ratio_of_contexts():
  ours = parsed({"rope_type": "yarn", "original_max_position_embeddings": 512})
  assert isinstance(ours.scaling, YarnScaling)
  assert (ours.scaling.factor, ours.scaling.original_context) == (8.0, 512)
  assert ours.scaling.attention_factor == pytest.approx(0.1 * math.log(8) + 1)


def test_rows_choose_their_longrope_factors_each_for_itself():
  ours = RopeSpec(
    theta=1e4,
    scaling=LongScaling(
      short_factors=(1.0, 1.0), long_factors=(2.0, 4.0), original_context=8,
      short_attention_factor=1.0, long_attention_factor=3.0,
    ),
  )  # fmt: skip
  rotation = rotation_at(jnp.asarray([[5], [5]], jnp.int32), jnp.asarray([8, 9], jnp.int32), Rotary(4, ours))
  angles = 5 * np.asarray([[1.0, 0.01], [0.5, 0.0025]])
  np.testing.assert_allclose(rotation.cos[:, 0], np.cos(angles) * [[1], [3]], rtol=1e-6)


def test_no_rope_turns_nothing():
  rotation = rotation_at(jnp.asarray([[7]], jnp.int32), jnp.asarray([8], jnp.int32), Rotary(6, None))
  np.testing.assert_array_equal(rotation.cos, np.ones((1, 1, 3)))
  np.testing.assert_array_equal(rotation.sin, np.zeros((1, 1, 3)))


def test_factors_that_do_not_fit_a_head_are_named():
  scaling = LongScaling(short_factors=(1.0,), long_factors=(1.0, 2.0), original_context=8)
  with pytest.raises(
    ValueError, match=r"LongScaling.short_factors is '1 numbers': expected one for each of the 2 pairs"
  ):
    AttentionSpec(heads=1, kv_heads=1, head_dim=4, rope=RopeSpec(theta=1e4, scaling=scaling))


def test_a_missing_number_is_named():
  with pytest.raises(ValueError, match="rotary embedding 'linear' without 'factor': add it"):
    parsed({"rope_type": "linear"})
