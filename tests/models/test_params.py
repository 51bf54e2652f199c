"""The tokenizer is beside the weights: no part of what `jit` compares, kept by what only maps over weights."""

import copy
import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from lynx_jax.text.tokenizer import Tokenizer
from tests.small_models import small_params


@pytest.fixture(scope="module")
def params() -> lynx_jax.Params:
  tokenizer = lynx_jax.load().tokenizer
  assert tokenizer is not None
  return dataclasses.replace(small_params(), tokenizer=tokenizer)


def test_models_share_one_compilation_whatever_their_tokenizers(params, monkeypatch):
  traces = 0
  other = dataclasses.replace(params.tokenizer, fingerprint="another")

  def touched(*tokenizers):
    raise AssertionError("a tokenizer was compared or hashed")

  @jax.jit
  def last(params, ids):
    nonlocal traces
    traces += 1
    assert params.tokenizer is None
    return lynx_jax.forward(params, ids)[:, -1]

  ids = jnp.ones((1, 4), jnp.int32)
  monkeypatch.setattr(Tokenizer, "__eq__", touched)
  monkeypatch.setattr(Tokenizer, "__hash__", touched)
  for tokenizer in (params.tokenizer, None, other):
    last(dataclasses.replace(params, tokenizer=tokenizer), ids)
  assert traces == 1


def test_no_program_hands_out_the_tokenizer_of_another_model(params):
  half = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf / 2, params))
  assert half(params).tokenizer is None
  assert half(dataclasses.replace(params, tokenizer=None)).tokenizer is None


def test_what_maps_over_weights_keeps_the_tokenizer(params):
  for kept in (
    jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params),
    jax.device_put(params, jax.devices()[0]),
    copy.deepcopy(params),
    jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(params)),
  ):
    assert kept.tokenizer == params.tokenizer
    assert kept.spec == params.spec


def test_pickled_params_are_whole(params):
  again = pickle.loads(pickle.dumps(params))
  assert again.tokenizer == params.tokenizer
  for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_leaves_have_the_same_paths_as_the_decoders(params):
  paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
  inner = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params.decoder)]
  assert paths == [f".decoder{path}" for path in inner]
