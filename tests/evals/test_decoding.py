"""The parallel forward of `lynx_jax.evals` against decode steps that really run one after the other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.steps import next_logits, prefill
from lynx_jax.evals import Texts, batch_costs, whole_rows
from lynx_jax.evals.decoding import decoded_hidden
from lynx_jax.models.moe import MoESpec
from lynx_jax.routing import OEA, Budget, Lynx, MassFloor, Prune, Router, TopK
from tests.small_models import random_prompts, small_params, small_spec

POLICIES = [TopK(), Lynx(alpha=3, beta=2), OEA(1), MassFloor(0.7), Budget(Lynx(alpha=1, beta=1), 3), Prune(1)]
step = jax.jit(next_logits, static_argnames="policy")
score_steps = jax.jit(decoded_hidden, static_argnames="policy")
LENGTHS, PROMPTS = (15, 9, 12, 15, 3), (4, 1, 6, 4, 2)


def unequal_texts():
  rows = random_prompts(LENGTHS, seed=3)
  tokens = np.zeros((len(rows), max(LENGTHS)), np.int32)
  for row, ids in zip(tokens, rows, strict=True):
    row[: len(ids)] = ids
  return Texts(jnp.asarray(tokens), jnp.array(LENGTHS, jnp.int32), jnp.array(PROMPTS, jnp.int32))


def equal_texts():
  return whole_rows(jnp.array(random_prompts([11] * 4, seed=5), jnp.int32), prompt_length=3)


def step_by_step(params, texts, policy):
  """Log-probabilities of every judged position, and experts a step, from `prefill` and `next_logits`."""
  prompt = int(texts.prompt_lengths.max())
  tokens, lengths, starts = (np.asarray(x) for x in (texts.tokens, texts.lengths, texts.prompt_lengths))
  state = prefill(params, tokens[:, :prompt], starts, tokens.shape[1], collect_totals=True)
  logs = {}
  while True:
    positions = np.asarray(state.lengths)
    running = positions < lengths - 1
    if not running.any():
      break
    fed = tokens[np.arange(len(tokens)), np.minimum(positions, tokens.shape[1] - 1)]
    finish = jnp.where(jnp.asarray(running), 0, 1).astype(jnp.int32)
    logits, state = step(params, dataclasses.replace(state, token=jnp.asarray(fed), finish=finish), policy=policy)
    log = np.asarray(jax.nn.log_softmax(logits))
    logs |= {(row, int(positions[row])): log[row] for row in np.flatnonzero(running)}
  assert state.totals is not None
  return logs, state.totals


# Every position, where policies differ most; `test_costs_are_those_of_the_decode_steps` sums over the others.
@pytest.mark.parametrize(
  ("policy", "renormalize", "texts"),
  [
    (TopK(), False, unequal_texts()),
    (Lynx(alpha=3, beta=2), True, unequal_texts()),
    (MassFloor(0.7), False, unequal_texts()),
    (Prune(1), True, equal_texts()),
  ],
  ids=lambda value: "" if isinstance(value, Texts) else str(value),
)
def test_scores_are_those_of_the_decode_steps(policy, renormalize, texts):
  moe = MoESpec(experts=8, top_k=2, expert_width=24, router=Router(renormalize=renormalize))
  layer = dataclasses.replace(small_spec().layers[1], ffn=moe)
  params = small_params(small_spec(layers=(layer, small_spec().layers[0], layer)))
  expected, _ = step_by_step(params, texts, policy)
  hidden, _ = score_steps(params, texts, policy=policy)
  found = np.asarray(jax.nn.log_softmax(params.decoder.logits(hidden)))
  assert set(expected) == set(zip(*np.nonzero(np.asarray(texts.judged)), strict=True))
  for (row, position), log in expected.items():
    np.testing.assert_allclose(found[row, position], log, atol=2e-4, err_msg=f"row {row}, position {position}")


@functools.cache
def own_steps():
  return step_by_step(small_params(), unequal_texts(), TopK())


@pytest.mark.parametrize("policy", POLICIES[1:], ids=str)
def test_costs_are_those_of_the_decode_steps(policy):
  params, texts = small_params(), unequal_texts()
  own, _ = own_steps()
  logs, totals = step_by_step(params, texts, policy)
  (cost,) = batch_costs(params, texts, (policy,))
  tokens = np.asarray(texts.tokens)
  cost = jax.device_get(cost)
  assert cost.tokens == len(logs)
  np.testing.assert_allclose(cost.cross_entropy, -sum(log[tokens[r, p + 1]] for (r, p), log in logs.items()), rtol=1e-4)
  np.testing.assert_allclose(
    cost.own_cross_entropy, -sum(log[tokens[r, p + 1]] for (r, p), log in own.items()), rtol=1e-4
  )
  divergence = sum(float(np.sum(np.exp(own[at]) * (own[at] - log))) for at, log in logs.items())
  np.testing.assert_allclose(cost.divergence, divergence, rtol=1e-3, atol=1e-4)
  assert cost.agreement == sum(own[at].argmax() == log.argmax() for at, log in logs.items())
  np.testing.assert_allclose(cost.experts, float(totals.active[0]) / int(totals.steps), rtol=1e-5)
  np.testing.assert_allclose(cost.own_experts, float(totals.own_active[0]) / int(totals.steps), rtol=1e-5)
  np.testing.assert_allclose(cost.retained, float(totals.retained[0]), rtol=1e-4)
  np.testing.assert_allclose(cost.worst_retained, float(totals.worst_retained[0]), rtol=1e-4)


def test_the_models_own_routing_costs_nothing():
  (cost,) = jax.device_get(batch_costs(small_params(), unequal_texts(), (TopK(),)))
  # Weights may differ in the last bit: a step's rows and all positions are softmaxes of different shapes to XLA.
  np.testing.assert_allclose(cost.cross_entropy, cost.own_cross_entropy, rtol=1e-6)
  assert abs(float(cost.divergence)) < 1e-4
  assert float(cost.agreement) == int(cost.tokens)
  assert cost.experts == cost.own_experts


def test_a_prompt_that_leaves_nothing_to_judge():
  with pytest.raises(ValueError, match="prompt_length is 4: rows of 5 tokens leave nothing"):
    whole_rows(jnp.zeros((2, 5), jnp.int32), prompt_length=4)
