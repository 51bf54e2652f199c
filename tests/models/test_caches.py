"""Kinds of cache: what prefill fills is what the layers' cache specs say, and room comes behind what was seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.steps import prefill
from lynx_jax.models.attention import KeyValueCache, KeyValueSpec
from lynx_jax.models.families import spec_from_config
from lynx_jax.models.mla import LatentCache
from lynx_jax.models.sizes import bytes_of
from lynx_jax.testing.random_params import random_params
from lynx_jax.testing.tiny_configs import TINY


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("kind", "shape"), [(KeyValueCache, (3, 2, 4, 8)), (LatentCache, (3, 4, 8))])
def test_what_was_seen_comes_first_and_the_rest_is_room(kind, shape, dtype):
  random = np.random.default_rng(0)
  seen = kind(*(jnp.asarray(random.normal(size=shape), dtype) for _ in kind._fields))
  for before, after in zip(seen, seen.with_room(6), strict=True):
    assert after.shape == (*shape[:-2], 6, shape[-1])
    np.testing.assert_array_equal(after[..., :4, :], before)
    np.testing.assert_array_equal(after[..., 4:, :], 0)


@pytest.mark.parametrize("family", ["gpt_oss", "deepseek_v3"])
def test_prefill_fills_the_caches_that_the_spec_names(family):
  spec = spec_from_config(TINY[family])
  params = random_params(spec, jnp.bfloat16)
  ids, lengths = np.zeros((2, 8), np.int32), np.full(2, 8, np.int32)
  caches = jax.eval_shape(lambda params: prefill(params, ids, lengths, 16).cache, params)
  for layer, filled in zip(spec.layers, caches, strict=True):
    kind = layer.attention.cache_spec(jnp.bfloat16)
    empty = kind.allocate(2, 16)
    assert type(empty) is type(filled)
    assert [(leaf.shape, leaf.dtype) for leaf in empty] == [(leaf.shape, leaf.dtype) for leaf in filled]
    assert bytes_of(empty) == 2 * 16 * kind.bytes_per_position


def test_a_window_is_part_of_the_kind():
  kinds = [layer.attention.cache_spec("float32") for layer in spec_from_config(TINY["gpt_oss"]).layers]
  assert kinds == [KeyValueSpec(heads=2, width=16, window=window, dtype=np.dtype("float32")) for window in (8, None)]
