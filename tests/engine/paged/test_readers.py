"""Who reads which expert: beside a statement of it in NumPy, and in the engine beside its own counts."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.paged.readers import ADAPTIVE, EXACT, OWN, PROMPTS, expert_readers
from lynx_jax.engine.paged.step_arrays import ABSENT
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.models.parts import ExpertTrace
from lynx_jax.routing import Auto, lynx_route
from pallas_kernels.lynx_route import Router
from tests.small_models import small_params

ROWS, TOP_K = 9, 2
BIT = {1: PROMPTS, 2: EXACT, 3: ADAPTIVE}


def trace_of(experts: int, seed: int) -> ExpertTrace:
  logits = jax.random.normal(jax.random.key(seed), (ROWS, experts)) * 2
  routing = lynx_route(logits, TOP_K, policy=Auto(share=0.3))
  return ExpertTrace(logits, routing, jnp.zeros((), jnp.int32), None, TOP_K, Router())


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=ROWS, max_size=ROWS), st.integers(0, 9), st.booleans(), st.data())
def test_readers_are_those_of_each_row(kinds, seed, compared, data):
  there = data.draw(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS))
  traces = [trace_of(8, seed), trace_of(6, seed + 10)]
  expected = np.zeros((2, 8), int)
  for layer, trace in enumerate(traces):
    own = np.argsort(-np.asarray(trace.logits), axis=-1, kind="stable")[:, :TOP_K]
    for row, kind in enumerate(kinds):
      if not there[row] or kind == ABSENT:
        continue
      expected[layer, np.asarray(trace.routing.ids)[row]] |= BIT[kind] | (0 if compared else OWN)
      if compared:
        expected[layer, own[row]] |= OWN
  present = jnp.array(there) & (jnp.array(kinds) != ABSENT)
  found = expert_readers(traces, jnp.array(kinds), present, compared=compared)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("policy", [pytest.param(None, marks=pytest.mark.slow), Auto(share=0.4)])
def test_the_log_says_who_read_what(policy):
  sizes = EngineSettings(slots=4, context=64, mixed=(32,), policy=policy, stats=True, readers=True)
  core = EngineCore(small_params(), sizes)
  for index, quality in enumerate(("exact", "economy", "standard", "exact")):
    core.submit(Request(id=str(index), prompt=(3, 4 + index, 5), max_new_tokens=6, quality=quality, ignore_eos=True))
  core.run()
  for step in core.log.recent:
    assert step.readers is not None
    read = (step.readers & (PROMPTS | EXACT | ADAPTIVE)) > 0
    assert tuple(read.sum(axis=-1)) == step.experts
    assert tuple(((step.readers & OWN) > 0).sum(axis=-1)) == step.own_experts
    assert bool((step.readers & PROMPTS).any()) == bool(step.chunk_tokens)
    assert (step.readers & (EXACT | ADAPTIVE)).any() == (step.rows > 0)
  last = core.log.recent[-1].readers
  assert last is not None
  # Without a policy every request runs its own experts.
  assert [bool((last & bit).any()) for bit in (EXACT, ADAPTIVE)] == [True, policy is not None]
  without = EngineCore(small_params(), dataclasses.replace(sizes, readers=False))
  without.submit(Request(id="0", prompt=(3,), max_new_tokens=2))
  without.run()
  assert all(step.readers is None for step in without.log.recent)
