"""A llama cut into experts has no judge in transformers; a layer in NumPy and experiments/test_moefy.py judge it."""

import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax.models.families import moefied_llama, spec_from_config
from lynx_jax.models.moe import MoE
from lynx_jax.models.parts import ExpertChoice
from lynx_jax.testing.random_checkpoint import random_checkpoint
from lynx_jax.testing.tiny_configs import TINY
from tests.small_models import small_spec

CONFIG = TINY["moefied_llama"]


def test_a_configuration_comes_back_as_it_was():
  spec = spec_from_config(CONFIG)
  assert spec_from_config(moefied_llama.config(spec)) == spec
  with pytest.raises(ValueError, match="needs equal layers of experts beside a shared part"):
    moefied_llama.config(small_spec())


@pytest.mark.parametrize("key", ["num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"])
def test_a_missing_key_is_named(key):
  with pytest.raises(ValueError, match=f"family 'moefied_llama' has no .*'{key}'"):
    spec_from_config({name: value for name, value in CONFIG.items() if name != key})


def test_a_layer_adds_its_best_experts_with_weight_one_to_the_part_that_always_runs(tmp_path):
  random_checkpoint(tmp_path / "tiny", CONFIG, dtype="float32")
  params = lynx_jax.load(tmp_path / "tiny")
  layer = params.decoder.layers[0]
  ffn = layer.ffn
  assert isinstance(ffn, MoE)
  assert ffn.shared is not None
  x = np.random.default_rng(0).normal(size=(6, params.spec.width)).astype(np.float32)
  normed = x / np.sqrt(np.square(x).mean(axis=1, keepdims=True) + params.spec.norm_eps)

  def network(rows, gate_up, down):
    gate, up = np.split(rows @ np.asarray(gate_up).T, 2, axis=-1)
    return (gate / (1 + np.exp(-gate)) * up) @ np.asarray(down).T

  logits = normed @ np.asarray(ffn.router[...]).T
  expected = network(normed, ffn.shared.gate_up[...], ffn.shared.down[...])
  for row, experts in enumerate(np.argsort(-logits, axis=1)[:, : CONFIG["num_experts_per_tok"]]):
    for expert in experts:
      expected[row] += network(normed[row], ffn.gate_up[...][expert], ffn.down[...][expert])
  found, trace = ffn.feed(jnp.asarray(x), layer.ffn_norm, ExpertChoice(jnp.ones(6, bool)))
  np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5 * np.abs(expected).max())
  assert np.asarray(trace.routing.weights).tolist() == [[1.0, 1.0]] * 6
