"""Drawing tokens: the filters against a NumPy statement of each, the distribution, and rows' independence."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.engine.sampling import Sampling, _filter, sample, samplers

ROWS, VOCAB = 4, 50


def filtered_by_numpy(logits, setting: Sampling):
  """transformers' order: temperature, top-k, top-p, min-p, one after the other."""
  scores = logits.astype(np.float64) / (setting.temperature or 1.0)
  if setting.top_k:
    kth = np.sort(scores)[::-1][min(setting.top_k, scores.size) - 1]
    scores = np.where(scores >= kth, scores, -np.inf)
  if setting.top_p < 1:
    order = np.argsort(-scores, kind="stable")
    share = np.exp(scores[order] - scores.max())
    share /= share.sum()
    kept = order[np.cumsum(share) - share < setting.top_p]
    scores = np.where(np.isin(np.arange(scores.size), kept), scores, -np.inf)
  if setting.min_p:
    scores = np.where(np.exp(scores - scores.max()) >= setting.min_p, scores, -np.inf)
  return np.isfinite(scores)


settings_drawn = st.builds(
  Sampling,
  temperature=st.sampled_from([0.3, 1.0, 2.5]),
  top_k=st.sampled_from([0, 1, 5, 49, 50, 500]),
  top_p=st.sampled_from([0.05, 0.5, 0.93, 1.0]),
  min_p=st.sampled_from([0.0, 0.02, 0.7]),
)


@given(st.lists(settings_drawn, min_size=ROWS, max_size=ROWS), st.integers(0, 2**16))
@settings(max_examples=60)
def test_the_filters_keep_what_numpy_keeps(each, seed):
  logits = np.random.default_rng(seed).normal(scale=2, size=(ROWS, VOCAB)).astype(np.float32)
  rows = samplers(each, ROWS)
  kept = np.isfinite(_filter_jitted(logits / np.array([[s.temperature] for s in each], np.float32), rows))
  expected = np.stack([filtered_by_numpy(row, setting) for row, setting in zip(logits, each, strict=True)])
  np.testing.assert_array_equal(kept, expected)


_filter_jitted = jax.jit(lambda logits, rows: _filter(jnp.asarray(logits), rows))
_sample_jitted = jax.jit(lambda *arguments: sample(*arguments).ids)


def test_greedy_takes_the_first_of_equals():
  logits = jnp.zeros((2, VOCAB)).at[:, jnp.array([7, 9])].set(3.0)
  assert _sample_jitted(logits, samplers(Sampling(), 2), jnp.zeros(2, jnp.int32)).tolist() == [7, 7]


def test_draws_follow_the_distribution():
  rows = 4096
  share = np.array([0.5, 0.3, 0.15, 0.05])
  logits = jnp.broadcast_to(jnp.log(jnp.asarray(share, jnp.float32)), (rows, 4))
  drawn = _sample_jitted(logits, samplers(Sampling(temperature=1.0, seed=3), rows), jnp.zeros(rows, jnp.int32))
  found = np.bincount(np.asarray(drawn), minlength=4) / rows
  # Four standard deviations of the frequency.
  np.testing.assert_array_less(np.abs(found - share), 4 * np.sqrt(share * (1 - share) / rows))


def test_a_masked_token_is_never_drawn():
  logits = jnp.full((512, VOCAB), -jnp.inf).at[:, 11].set(0.0).at[:, 40].set(0.0)
  drawn = _sample_jitted(logits, samplers(Sampling(temperature=1.0), 512), jnp.zeros(512, jnp.int32))
  assert set(drawn.tolist()) == {11, 40}


@given(st.lists(settings_drawn, min_size=ROWS, max_size=ROWS), st.integers(0, 2**16))
@settings(max_examples=25)
def test_what_one_row_asks_for_does_not_change_another(others, seed):
  logits = jnp.asarray(np.random.default_rng(seed).normal(size=(ROWS, VOCAB)), jnp.float32)
  index = jnp.full((ROWS,), 5, jnp.int32)
  own = Sampling(temperature=0.9, seed=seed)
  alone = _sample_jitted(logits, samplers([own], ROWS), index)
  among = _sample_jitted(logits, samplers([own, *others[1:]], ROWS), index)
  assert alone[0] == among[0]


def test_the_random_stream_moves_with_the_index_and_the_row():
  logits = jnp.zeros((64, 1000))
  rows = samplers(Sampling(temperature=1.0), 64)
  first, second = (_sample_jitted(logits, rows, jnp.full((64,), index, jnp.int32)) for index in (0, 1))
  assert len(set(first.tolist())) > 32
  assert (first != second).sum() > 32
  again = _sample_jitted(logits, samplers(Sampling(temperature=1.0), 64), jnp.zeros((64,), jnp.int32))
  np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("temperature", -0.1), ("temperature", float("nan")), ("temperature", float("inf")), ("temperature", True),
    ("temperature", "1"), ("top_k", 1.5), ("seed", 0.5),
    ("top_k", -1), ("top_k", True), ("top_p", 0.0), ("top_p", 1.1), ("top_p", float("nan")), ("min_p", -0.2),
    ("min_p", 2.0), ("seed", -1), ("seed", 2**32),
  ],
)  # fmt: skip
@pytest.mark.usefixtures("own_errors")
def test_absurd_settings_are_refused_by_name_and_value(field, value):
  with pytest.raises(ValueError, match=rf"Sampling\.{field} is {value!r}: expected"):
    Sampling(**{field: value})


@pytest.mark.usefixtures("own_errors")
def test_settings_may_be_numpys_numbers():
  numbers: dict[str, Any] = {"temperature": np.float32(0.5), "top_k": np.int64(3), "seed": np.uint32(7)}
  setting = Sampling(**numbers, top_p=1, min_p=np.float64(0))
  assert setting == Sampling(temperature=0.5, top_k=3, seed=7)
  assert hash(setting) == hash(Sampling(temperature=0.5, top_k=3, seed=7))
  assert setting.top_k.__class__ is int
  with pytest.raises(ValueError, match=r"Sampling.top_k is 2.5: expected a whole number from 0 to .*; 0 is off"):
    Sampling(top_k=2.5)  # pyright: ignore[reportArgumentType]
