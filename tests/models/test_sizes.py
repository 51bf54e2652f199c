"""Sizes follow from declarations alone, and count all that an expert holds."""

import jax
import jax.numpy as jnp

from lynx_jax.models.decoder import abstract_decoder
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.parameters import parameter_shapes
from lynx_jax.models.released import released_config
from lynx_jax.models.sizes import expert_bytes, weight_bytes
from lynx_jax.testing.tiny_configs import TINY


def test_an_experts_bytes_include_its_biases():
  decoder = abstract_decoder(spec_from_config(TINY["gpt_oss"]), jnp.bfloat16)
  width, hidden = TINY["gpt_oss"]["hidden_size"], TINY["gpt_oss"]["intermediate_size"]
  one = 2 * (2 * hidden * width + 2 * hidden + width * hidden + width)
  assert expert_bytes(decoder) == (one, one)
  assert weight_bytes(decoder).experts == TINY["gpt_oss"]["num_local_experts"] * 2 * one


def test_the_shapes_of_48_layers_come_without_a_trace(monkeypatch):
  def traced(*arguments, **options):
    raise AssertionError("a weight was drawn or traced")

  config = released_config("Qwen3-30B-A3B")
  assert config is not None
  spec = spec_from_config(config)
  monkeypatch.setattr(jax.random, "normal", traced)
  monkeypatch.setattr(jax, "eval_shape", traced)
  shapes = parameter_shapes(spec)
  assert shapes["layers.47.ffn.gate_up"] == (128, 2 * 768, 2048)
  assert len(shapes) == 3 + 48 * 11
