"""A decode of one policy from a fixed state, which can be timed repeatedly."""

import dataclasses
import functools
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.engine.buckets import bucket
from lynx_jax.engine.memory import out_of_memory_explained
from lynx_jax.engine.programs import compiled_decode_loop, compiled_prefill, graph_options
from lynx_jax.engine.report import RoutingReport, report
from lynx_jax.engine.sampling import Sampling, samplers
from lynx_jax.engine.state import DecodeState, Requests
from lynx_jax.engine.steps import decode_step
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy

Tokens = Literal["random", "sampled"]


@functools.partial(jax.jit, static_argnames=("policy",), donate_argnames=("state",), compiler_options=graph_options())
def _feed(params: Params, state: DecodeState, tokens_SB: jax.Array, *, policy: RoutingPolicy) -> DecodeState:
  """Decode steps that are fed given tokens; what they draw is ignored, as untrained weights soon repeat one token."""

  def step(index: jax.Array, state: DecodeState) -> DecodeState:
    return decode_step(params, dataclasses.replace(state, token=tokens_SB[index]), policy=policy)

  return jax.lax.fori_loop(0, tokens_SB.shape[0], step, state)


class FedDecode:
  """Prefills random prompts [B, length] and decodes `steps` tokens under a policy.

  Args:
    params: a loaded model.
    batch: rows.
    policy: which experts the batch may use.
    tokens: `random` feeds random tokens, `sampled` those that the model draws at temperature 1.
    length: tokens of each prompt.
    steps: decode steps.
    seed: of prompts and tokens.

  Raises:
    ValueError: prompts and steps do not fit the model's context.
  """

  def __init__(
    self,
    params: Params,
    batch: int,
    policy: RoutingPolicy,
    *,
    tokens: Tokens = "random",
    length: int,
    steps: int,
    seed: int = 0,
  ):
    if length + steps >= params.spec.context:
      raise ValueError(f"{length} + {steps} tokens do not fit the model's context of {params.spec.context}")
    self.params, self.policy, self.steps = params, policy, steps
    random = np.random.default_rng(seed)
    vocab = params.spec.vocab
    self.prompts = jnp.asarray(random.integers(vocab, size=(batch, length)), jnp.int32)
    self.fed = jnp.asarray(random.integers(vocab, size=(steps, batch)), jnp.int32) if tokens == "random" else None
    self.capacity = bucket(length + steps + 1, least=16)
    drawn = Sampling(temperature=0.0 if tokens == "random" else 1.0, seed=seed)
    self.requests = Requests(
      samplers=samplers(drawn, batch),
      max_new_tokens=jnp.full((batch,), self.capacity, jnp.int32),
      stop_ids=jnp.full((batch, 1), -1, jnp.int32),
    )
    self._start: DecodeState | None = None

  def _prefilled(self, collect_totals: bool) -> DecodeState:
    lengths = jnp.full((self.prompts.shape[0],), self.prompts.shape[1], jnp.int32)
    return compiled_prefill(
      self.params, self.prompts, lengths, self.capacity, self.requests, collect_totals=collect_totals
    )

  def _decode(self, state: DecodeState) -> DecodeState:
    if self.fed is not None:
      return _feed(self.params, state, self.fed, policy=self.policy)
    return compiled_decode_loop(self.params, state, policy=self.policy, max_steps=jnp.int32(self.steps))

  def compile(self, *, collect_totals: bool) -> None:
    """Compiles what decoding runs, with its statistics or without; no state is allocated."""
    lengths = jnp.full((self.prompts.shape[0],), self.prompts.shape[1], jnp.int32)
    prompts = (self.params, self.prompts, lengths, self.capacity, self.requests)
    compiled_prefill.lower(*prompts, collect_totals=collect_totals).compile()
    state = jax.eval_shape(functools.partial(self._prefilled, collect_totals=collect_totals))
    if self.fed is not None:
      _feed.lower(self.params, state, self.fed, policy=self.policy).compile()
    else:
      compiled_decode_loop.lower(self.params, state, policy=self.policy, max_steps=jnp.int32(self.steps)).compile()

  def warm_up(self) -> RoutingReport | None:
    """Compiles, and decodes once with statistics; `OutOfMemoryError` where the batch does not fit."""
    with out_of_memory_explained(self.params, self.prompts.shape[0], self.capacity):
      counted = self._decode(self._prefilled(collect_totals=True))
      self._start = self._prefilled(collect_totals=False)
      self.seconds()
    return None if counted.totals is None else report(counted.totals, self.params.decoder)

  def prefill_seconds(self) -> float:
    """Time to read the prompts and draw the first tokens."""
    begin = time.perf_counter()
    jax.block_until_ready(self._prefilled(collect_totals=False))
    return time.perf_counter() - begin

  def seconds(self) -> float:
    """Time of one decode of all steps."""
    state = jax.block_until_ready(jax.tree.map(jnp.copy, self._start))
    begin = time.perf_counter()
    jax.block_until_ready(self._decode(state))
    return time.perf_counter() - begin
