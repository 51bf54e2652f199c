"""Prefill and decoding: padding, batching and caching change nothing; every boundary traces once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.state import Finish, greedy_requests
from lynx_jax.engine.steps import decode_loop, decode_step, forward, prefill
from lynx_jax.routing import OEA, Lynx, TopK
from pallas_kernels.cpu import unavailable
from tests.small_models import VOCAB, random_prompts, small_params, small_spec

CAPACITY, NEW = 48, 12
LENGTHS = (1, 5, 16, 11)

_prefill = jax.jit(prefill, static_argnames=("capacity", "collect_totals"))
_decode_loop = jax.jit(decode_loop, static_argnames="policy")
_decode_step = jax.jit(decode_step, static_argnames="policy")
_forward = jax.jit(forward)


def padded(prompts, length=16, seed=9):
  """Prompts side by side, the padding full of random tokens."""
  tokens = np.random.default_rng(seed).integers(VOCAB, size=(len(prompts), length))
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt
  return jnp.asarray(tokens, jnp.int32), jnp.asarray([len(prompt) for prompt in prompts], jnp.int32)


def decode(prompts, policy=None, params=None, **padding):
  params = params or small_params()
  tokens, lengths = padded(prompts, **padding)
  state = _prefill(params, tokens, lengths, CAPACITY, greedy_requests(len(prompts), NEW))
  return _decode_loop(params, state, policy=policy, max_steps=jnp.int32(1000))


def assert_bit_identical(first, second):
  for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def prompts():
  return random_prompts(LENGTHS)


def test_a_row_in_a_padded_batch_equals_the_row_alone(prompts):
  together = decode(prompts)
  for index, prompt in enumerate(prompts):
    np.testing.assert_array_equal(together.output[index, :NEW], decode([prompt]).output[0, :NEW])


def test_what_the_padding_holds_and_how_wide_it_is_changes_nothing(prompts):
  first, second = decode(prompts), decode(prompts, seed=77)
  np.testing.assert_array_equal(first.output[:, :NEW], second.output[:, :NEW])
  np.testing.assert_array_equal(first.output[:, :NEW], decode(prompts, length=32).output[:, :NEW])


def test_greedy_decoding_equals_forward_on_the_grown_text(prompts):
  state = decode(prompts)
  grown = [prompt + state.output[index, :NEW].tolist() for index, prompt in enumerate(prompts)]
  tokens, lengths = padded(grown, length=32)
  logits = _forward(small_params(), tokens, lengths)
  for index, prompt in enumerate(prompts):
    at = np.arange(len(prompt) - 1, len(prompt) + NEW - 1)
    np.testing.assert_array_equal(np.argmax(logits[index, at], axis=-1), state.output[index, :NEW])


def test_an_attention_window_is_crossed_the_same_way_in_cache_and_forward(prompts):
  spec = small_spec()
  windowed = dataclasses.replace(spec.layers[0].attention, window=4)
  spec = dataclasses.replace(spec, layers=tuple(dataclasses.replace(la, attention=windowed) for la in spec.layers))
  params = small_params(spec)
  state = decode(prompts, params=params)
  grown = [prompt + state.output[index, :NEW].tolist() for index, prompt in enumerate(prompts)]
  tokens, lengths = padded(grown, length=32)
  logits = _forward(params, tokens, lengths)
  assert not np.allclose(logits[0], _forward(small_params(), tokens, lengths)[0])
  for index, prompt in enumerate(prompts):
    at = np.arange(len(prompt) - 1, len(prompt) + NEW - 1)
    np.testing.assert_array_equal(np.argmax(logits[index, at], axis=-1), state.output[index, :NEW])


def test_topk_and_no_policy_are_bit_identical(prompts):
  without, named = decode(prompts, policy=None), decode(prompts, policy=TopK())
  assert_bit_identical(without, named)


def test_a_lone_row_is_untouched_by_lynx(prompts):
  without, lynx = decode(prompts[:1]), decode(prompts[:1], policy=Lynx(alpha=3, beta=2))
  assert_bit_identical(without, lynx)


def test_absent_rows_change_nothing_under_lynx(prompts):
  policy = Lynx(alpha=1.0, beta=2)
  two = decode(prompts[1:3], policy=policy)
  tokens, _ = padded([prompts[3], prompts[1], prompts[2], prompts[0]])
  lengths = jnp.asarray([0, len(prompts[1]), len(prompts[2]), 0], jnp.int32)
  state = _prefill(small_params(), tokens, lengths, CAPACITY, greedy_requests(4, NEW))
  state = _decode_loop(small_params(), state, policy=policy, max_steps=jnp.int32(1000))
  np.testing.assert_array_equal(state.output[1:3, :NEW], two.output[:, :NEW])
  assert state.finish.tolist() == [Finish.ABSENT, Finish.LENGTH, Finish.LENGTH, Finish.ABSENT]
  assert state.generated.tolist() == [0, NEW, NEW, 0]


def test_the_loop_equals_its_steps_taken_one_by_one(prompts):
  params, policy = small_params(), OEA(k0=1)
  state = loop = _prefill(params, *padded(prompts), CAPACITY, greedy_requests(len(prompts), NEW))
  for _ in range(NEW - 1):
    state = _decode_step(params, state, policy=policy)
  loop = _decode_loop(params, loop, policy=policy, max_steps=jnp.int32(4))
  loop = _decode_loop(params, loop, policy=policy, max_steps=jnp.int32(1000))
  for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(loop), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_rows_end_at_their_own_limit_stop_token_or_capacity(prompts):
  params = small_params()
  free = decode(prompts)
  stop = int(free.output[1, 3])
  requests = dataclasses.replace(
    greedy_requests(4, 1000, (stop,)), max_new_tokens=jnp.asarray([2, 1000, 7, 1000], jnp.int32)
  )
  state = _prefill(params, *padded(prompts), 24, requests)
  state = _decode_loop(params, state, policy=None, max_steps=jnp.int32(1000))
  reasons = state.finish.tolist()
  assert reasons[1] == Finish.STOP
  assert state.output[1, state.generated[1] - 1] == stop
  for index in (0, 2, 3):
    row = state.output[index, : state.generated[index]].tolist()
    if reasons[index] == Finish.LENGTH:
      assert stop not in row
      assert state.generated[index] == min(int(requests.max_new_tokens[index]), 24 - LENGTHS[index])
    else:
      assert row.index(stop) == len(row) - 1


def test_nan_logits_end_a_row_as_not_finite(prompts):
  params = small_params()
  broken = jax.tree.map(lambda leaf: leaf, params)
  broken.decoder.final_norm.scale[...] = jnp.full((32,), jnp.nan)
  state = _prefill(broken, *padded(prompts), CAPACITY)
  assert set(state.finish.tolist()) == {Finish.NOT_FINITE}


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("token", [0, 17, VOCAB - 1])
def test_one_logit_that_is_not_finite_ends_its_rows(prompts, value, token):
  params = jax.tree.map(lambda leaf: leaf, small_params())
  head = params.decoder.head
  head[...] = head[...].at[token].set(value)
  state = _prefill(params, *padded(prompts), CAPACITY)
  assert set(state.finish.tolist()) == {Finish.NOT_FINITE}


@pytest.mark.skipif(unavailable() is not None, reason="counts calls of native code")
# Lowering describes arguments by values that are no arrays, which the run-time checker of shapes refuses.
@pytest.mark.usefixtures("own_errors")
def test_a_decode_step_looks_for_the_most_likely_token_once(prompts):
  params = small_params()
  state = _prefill(params, *padded(prompts), CAPACITY)
  assert _decode_step.lower(params, state).as_text().count("custom_call @lynx_greedy_token") == 1


@pytest.mark.parametrize("shape", [(1, 0), (0, 3)])
def test_prompts_without_a_row_or_a_position_are_refused(shape):
  nothing = jnp.ones(shape, jnp.int32)
  with pytest.raises(ValueError, match=r"token_ids.shape is \(.*\): expected at least one row and one position"):
    forward(small_params(), nothing)
  with pytest.raises(ValueError, match=r"token_ids.shape is"):
    prefill(small_params(), nothing, jnp.ones(shape[:1], jnp.int32), 8)


def test_prefill_refuses_a_cache_smaller_than_the_prompts(prompts):
  with pytest.raises(ValueError, match="capacity is 8 positions, fewer than the 16"):
    prefill(small_params(), *padded(prompts), 8)


def test_totals_count_steps_rows_and_experts(prompts):
  params = small_params()
  tokens, lengths = padded(prompts)
  requests = dataclasses.replace(greedy_requests(4, NEW), max_new_tokens=jnp.asarray([NEW, NEW, 3, NEW], jnp.int32))
  state = _prefill(params, tokens, lengths, CAPACITY, requests, collect_totals=True)
  state = _decode_loop(params, state, policy=Lynx(alpha=1.0, beta=1), max_steps=jnp.int32(1000))
  totals = state.totals
  assert (int(totals.steps), int(totals.rows)) == (NEW - 1, 3 * (NEW - 1) + 2)
  assert (totals.active <= totals.own_active).all()
  assert (totals.active < totals.own_active).any()
  mean = totals.retained / totals.rows.astype(jnp.float32)
  assert (mean <= 1 + 1e-6).all()
  assert (totals.worst_retained <= mean).all()


def test_each_boundary_traces_once_whatever_rows_run(prompts):
  traces = {"prefill": 0, "loop": 0}

  @functools.partial(jax.jit, static_argnames="capacity")
  def counted_prefill(params, tokens, lengths, capacity, requests):
    traces["prefill"] += 1
    return prefill(params, tokens, lengths, capacity, requests)

  @functools.partial(jax.jit, static_argnames="policy")
  def counted_loop(params, state, *, policy, max_steps):
    traces["loop"] += 1
    return decode_loop(params, state, policy=policy, max_steps=max_steps)

  tokens, lengths = padded(prompts)
  for rows in range(1, 5):
    present = jnp.where(jnp.arange(4) < rows, lengths, 0)
    state = counted_prefill(small_params(), tokens, present, CAPACITY, greedy_requests(4, NEW))
    counted_loop(small_params(), state, policy=Lynx(alpha=3, beta=2), max_steps=jnp.int32(rows))
  assert traces == {"prefill": 1, "loop": 1}


def test_forward_is_differentiable_and_the_gradient_is_right():
  params = small_params()
  tokens, lengths = padded(random_prompts((6, 3)), length=8)

  @jax.jit
  def loss(decoder):
    logits = forward(dataclasses.replace(params, decoder=decoder), tokens, lengths)
    return jax.nn.logsumexp(logits[:, 2], axis=-1).sum()

  gradient = jax.jit(jax.grad(loss))(params.decoder)
  direction = jax.tree.map(lambda leaf: jnp.sign(leaf) * 1e-4, gradient)
  # A central difference along the gradient's sign, small enough that no token changes its experts.
  ahead = loss(jax.tree.map(jnp.add, params.decoder, direction))
  behind = loss(jax.tree.map(jnp.subtract, params.decoder, direction))
  expected = sum(jax.tree.leaves(jax.tree.map(lambda g, d: 2 * (g * d).sum(), gradient, direction)))
  np.testing.assert_allclose(ahead - behind, expected, rtol=2e-2)
