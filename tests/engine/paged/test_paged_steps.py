"""A sequence in any company draws what it draws alone: for each kind of attention, chunked and placed at random."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.paged.executor import Executor
from lynx_jax.engine.paged.steps import StepSettings
from lynx_jax.engine.sampling import Sampling, samplers
from lynx_jax.engine.state import Requests
from lynx_jax.engine.steps import decode_loop, forward, prefill
from lynx_jax.models.attention import AttentionSpec
from lynx_jax.models.mla import MLASpec
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.rope import LongScaling, RopeSpec
from lynx_jax.models.spec import DecoderSpec, LayerSpec
from lynx_jax.routing import Auto
from tests.engine.paged.random_plans import Asked, run_randomly
from tests.small_models import random_prompts, small_params, small_spec

ROPE = RopeSpec(theta=1e4)
GROUPED = AttentionSpec(heads=4, kv_heads=2, head_dim=8, rope=ROPE, qk_norm="head")
SHORT, LONG = (1.0, 1.0, 1.5, 2.0), (1.0, 2.0, 4.0, 8.0)
ATTENTION = {
  "grouped": GROUPED,
  "window": dataclasses.replace(GROUPED, window=9, qk_norm="none"),
  "chunk": dataclasses.replace(GROUPED, chunk=16),
  # Prompts of 1 and 7 tokens are short and one of them passes the length; those of 33 and more are long from the first.
  "long": dataclasses.replace(
    GROUPED, rope=RopeSpec(theta=1e4, scaling=LongScaling(short_factors=SHORT, long_factors=LONG, original_context=12))
  ),
  "sinks": dataclasses.replace(GROUPED, sinks=True, qk_norm="none"),
  "latent": MLASpec(heads=4, rank=16, query_rank=None, key_width=8, rope_width=4, value_width=8, rope=ROPE, scale=0.3),
}
OWN, ALL = StepSettings(), StepSettings(policy=Auto(share=0.4), stats=True, routing=True)
LENGTHS, NEW = (1, 40, 7, 70, 33), 9


def spec_of(kind: str) -> DecoderSpec:
  experts = MoESpec(experts=8, top_k=2, expert_width=24)
  layer = LayerSpec(attention=ATTENTION[kind], ffn=experts)
  # Another layer has no positions, as in Llama 4: kinds of rotation differ within one model.
  plain = dataclasses.replace(small_spec().layers[0], attention=dataclasses.replace(GROUPED, rope=None))
  return small_spec(layers=(plain, layer))


@functools.cache
def executor_of(spec: DecoderSpec, settings: StepSettings = OWN) -> Executor:
  # One kind of attention with programs of several sizes, to see that plans run in each.
  several = spec == spec_of("grouped") and settings == OWN
  sizes: dict[str, Any] = {"decode": (2, 6), "mixed": (32, 220)} if several else {"decode": (6,), "mixed": (220,)}
  executor = Executor(small_params(spec).decoder, settings, blocks=24, slots=6, table=4, **sizes)
  executor.warm_up()
  return executor


def asked(**changes) -> list[Asked]:
  warm = Sampling(temperature=0.8, top_p=0.9, seed=5)
  return [
    Asked(prompt, NEW, warm if index % 2 else Sampling(), **changes)
    for index, prompt in enumerate(random_prompts(LENGTHS))
  ]


_prefill = jax.jit(prefill, static_argnames="capacity")
_loop = jax.jit(decode_loop, static_argnames="policy")


def alone(spec: DecoderSpec, one: Asked) -> list[int]:
  """What the dense decode loop draws for the row by itself."""
  tokens = np.zeros((1, 96), np.int32)
  tokens[0, : len(one.prompt)] = one.prompt
  requests = Requests(samplers([one.sampling], 1), jnp.asarray([one.new], jnp.int32), jnp.asarray([[-1]], jnp.int32))
  state = _prefill(small_params(spec), tokens, np.array([len(one.prompt)], np.int32), 112, requests)
  state = _loop(small_params(spec), state, max_steps=jnp.int32(1000))
  return np.asarray(state.output)[0, : one.new].tolist()


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_sequence_in_any_company_draws_what_it_draws_alone(kind):
  spec = spec_of(kind)
  wanted = [alone(spec, one) for one in asked()]
  for seed in (0, 1):
    got = run_randomly(executor_of(spec), asked(), seed)
    assert [one.output for one in got] == wanted


def test_exact_rows_keep_their_tokens_among_adaptive_ones():
  spec = spec_of("grouped")
  wanted = [alone(spec, one) for one in asked()]
  company = [dataclasses.replace(one, exact=index % 2 == 0) for index, one in enumerate(asked())]
  got = run_randomly(executor_of(spec, ALL), company, 2)
  for one, tokens in zip(got, wanted, strict=True):
    if one.asked.exact:
      assert one.output == tokens


def test_a_row_that_draws_a_stop_token_is_dead_at_once():
  spec = spec_of("grouped")
  one = asked()[2]
  tokens = alone(spec, one)
  (got,) = run_randomly(executor_of(spec), [dataclasses.replace(one, stop_ids=frozenset(tokens[3:4]))], 3)
  assert got.output == tokens[: tokens.index(tokens[3]) + 1]


def test_log_probabilities_are_those_of_the_models_logits():
  spec = spec_of("grouped")
  for got in run_randomly(executor_of(spec), asked(logprobs=3, prompt_logprobs=2), 4):
    ids = np.asarray([got.tokens[:-1]], np.int32)
    every = np.asarray(jax.nn.log_softmax(forward(small_params(spec), ids)[0]))
    first, prompt = len(got.asked.prompt), got.asked.prompt
    for index, (token, logprob, top) in enumerate(zip(got.output, got.logprobs, got.top, strict=True)):
      wanted = every[first - 1 + index]
      np.testing.assert_allclose(logprob, wanted[token], atol=2e-4)
      np.testing.assert_allclose([value for _, value in top], np.sort(wanted)[::-1][:3], atol=2e-4)
    assert len(got.prompt_logprobs) == len(prompt) - 1
    for index, (logprob, top) in enumerate(got.prompt_logprobs):
      np.testing.assert_allclose(logprob, every[index, prompt[index + 1]], atol=2e-4)
      assert len(top) == 2


def test_routing_is_reported_token_by_token():
  got = run_randomly(executor_of(spec_of("grouped"), ALL), asked(return_routing=True), 5)
  for one in got:
    assert len(one.routing) == len(one.tokens) - 1
    assert all(experts.shape == (1, 2) for experts in one.routing)
