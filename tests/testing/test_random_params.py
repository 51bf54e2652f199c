"""Weights drawn on the device are what loading a random checkpoint gives, but for their values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.parameters import by_path
from lynx_jax.testing.random_checkpoint import random_checkpoint
from lynx_jax.testing.random_params import normal, random_params
from lynx_jax.testing.tiny_configs import TINY
from pallas_kernels import dequantize
from pallas_kernels.gates.deviceless import compile_for


def facts(params):
  leaves, tree = jax.tree.flatten(params)
  return tree, [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in leaves]


# An untied head, MLA with a selection bias in float32, biases everywhere, a tied head.
@pytest.mark.parametrize("family", ["qwen3_moe", "deepseek_v3", "gpt_oss", "granitemoe"])
def test_they_are_what_a_checkpoint_gives(tmp_path, family):
  random_checkpoint(tmp_path / family, TINY[family])
  loaded = lynx_jax.load(tmp_path / family)
  drawn = random_params(spec_from_config(TINY[family]))
  assert facts(drawn) == facts(loaded)
  for (name, one), other in zip(by_path(drawn.decoder).items(), by_path(loaded.decoder).values(), strict=True):
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    if name.endswith(".scale"):
      np.testing.assert_array_equal(one, other)
    elif one.size >= 1024:
      assert one.std() == pytest.approx(other.std(), rel=0.1), name
      assert abs(one.mean()) < 0.003, name


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_they_are_what_quantising_a_checkpoint_gives(tmp_path, weights):
  random_checkpoint(tmp_path / "made", TINY["qwen3_moe"])
  loaded = lynx_jax.load(tmp_path / "made", weights=weights)
  drawn = random_params(spec_from_config(TINY["qwen3_moe"]), weights=weights)
  assert facts(drawn) == facts(loaded)
  one, other = (np.asarray(dequantize(params.decoder.moe_parts[0].gate_up.get_value())) for params in (drawn, loaded))
  assert one.std() == pytest.approx(other.std(), rel=0.1)
  assert abs(one.mean()) < 0.003


def test_a_seed_gives_the_same_weights_and_each_parameter_its_own():
  spec = spec_from_config(TINY["qwen3_moe"])
  first, again, other = (by_path(random_params(spec, seed=seed).decoder) for seed in (0, 0, 1000))
  for name, array in first.items():
    np.testing.assert_array_equal(np.asarray(array), np.asarray(again[name]))
  query = np.asarray(first["layers.0.attention.query"], np.float32)
  assert np.abs(query - np.asarray(first["layers.1.attention.query"], np.float32)).max() > 0.01
  assert np.abs(query - np.asarray(other["layers.0.attention.query"], np.float32)).max() > 0.01


@pytest.mark.parametrize("shape", [(128, 1536, 2048), (151936, 2048)])
def test_nothing_as_large_as_a_parameter_is_held_beside_it(shape):
  def draw(seed, scale):
    return normal(shape, jnp.dtype(jnp.bfloat16), seed, scale=scale)

  args = (jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32))
  assert compile_for(draw, args, graph=False).temporary_bytes < 0.01 * 2 * math.prod(shape)


@pytest.mark.slow
def test_they_decode():
  params = random_params(spec_from_config(TINY["qwen3_moe"]), jnp.float32)
  rows = lynx_jax.generate(params, [[1, 5, 9], [7]], max_new_tokens=4, policy=lynx_jax.parse_policy("topk"))
  assert all(1 <= len(row.token_ids) <= 4 for row in rows)
