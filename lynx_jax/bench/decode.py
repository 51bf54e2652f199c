"""Decode speed of policies, interleaved in one run, with the bytes that explain it.

Every policy starts from the same prefilled state; the fastest machine state favours none, because repeats go round
the policies. Medians are over repeats of the whole decode.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.engine.buckets import bucket
from lynx_jax.engine.programs import compiled_decode_loop, compiled_prefill, graph_options
from lynx_jax.engine.report import RoutingReport, report
from lynx_jax.engine.sampling import Sampling, samplers
from lynx_jax.engine.state import DecodeState, Requests
from lynx_jax.engine.steps import decode_step
from lynx_jax.models.counts import counts
from lynx_jax.models.ffn import MoE
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, format_policy
from lynx_jax.routing.select import route_to_tiles
from pallas_kernels.native import read_bandwidth

Tokens = Literal["random", "sampled"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
  """One policy at one batch size.

  Attributes:
    policy: the policy, as text.
    batch: rows.
    tokens_per_second: of the whole batch.
    step_ms: median time of a decode step.
    active_experts: distinct experts per layer and step, mean.
    own_experts: the same for the model's own routing at the same router logits.
    expert_bytes: expert weights read per step, all layers.
    bytes_per_second: expert and other weights read, over the step time.
    routing_ms: time to choose experts in a step, all layers, measured on its own.
    retained_mass: mean probability kept.
    speedup: step time of the first policy at this batch, over this one's.
    read_bandwidth: bytes a second that the machine read on the same threads, measured between the batches of the same
      run; None where there is no native code to measure it.
  """

  policy: str
  batch: int
  tokens_per_second: float
  step_ms: float
  active_experts: float
  own_experts: float
  expert_bytes: float
  bytes_per_second: float
  routing_ms: float
  retained_mass: float
  speedup: float
  read_bandwidth: float | None

  @property
  def read_fraction(self) -> float | None:
    """How much of the memory's read bandwidth a step reaches."""
    return None if self.read_bandwidth is None else self.bytes_per_second / self.read_bandwidth


@functools.partial(jax.jit, static_argnames=("policy",), donate_argnames=("state",), compiler_options=graph_options())
def _feed(params: Params, state: DecodeState, tokens_SB: jax.Array, *, policy: RoutingPolicy) -> DecodeState:
  """Decode steps that read given tokens and ignore what they draw: untrained weights repeat themselves otherwise."""

  def step(index: jax.Array, state: DecodeState) -> DecodeState:
    return decode_step(params, dataclasses.replace(state, token=tokens_SB[index]), policy=policy)

  return jax.lax.fori_loop(0, tokens_SB.shape[0], step, state)


def bench_decode(
  params: Params,
  batches: Sequence[int],
  policies: Sequence[RoutingPolicy],
  *,
  tokens: Tokens = "random",
  prompt_length: int = 32,
  steps: int = 32,
  repeats: int = 5,
  seed: int = 0,
  progress: Callable[[str], None] = lambda message: None,
) -> Iterator[Row]:
  """Measures every policy at every batch size; yields a batch's rows when all its policies are done.

  Args:
    params: a loaded model.
    batches: numbers of rows.
    policies: compared at each batch; the first is what `speedup` is relative to.
    tokens: `random` feeds random tokens, `sampled` those that the model draws at temperature 1.
    prompt_length: random tokens in each prompt.
    steps: decode steps a repeat.
    repeats: timed repeats of each policy.
    seed: of prompts and tokens.
    progress: called with a line on what is being measured.
  """
  if prompt_length + steps >= params.spec.context:
    raise ValueError(f"{prompt_length} + {steps} tokens do not fit the model's context of {params.spec.context}")
  for batch in batches:
    runs = {
      policy: _Run(params, batch, policy, tokens=tokens, length=prompt_length, steps=steps, seed=seed)
      for policy in policies
    }
    reports = {}
    for policy, run in runs.items():
      progress(f"batch {batch}: compiling {format_policy(policy)}")
      reports[policy] = run.warm_up()
    bandwidth = read_bandwidth() if jax.default_backend() == "cpu" else None
    times: dict[RoutingPolicy, list[float]] = {policy: [] for policy in policies}
    for repeat in range(repeats):
      progress(f"batch {batch}: repeat {repeat + 1} of {repeats}")
      for policy, run in runs.items():
        times[policy].append(run.seconds())
    medians = {policy: statistics.median(times[policy]) / steps for policy in policies}
    for policy in policies:
      routing = _routing_seconds(params, batch, policy, seed)
      first = medians[policies[0]]
      yield _row(params, batch, policy, medians[policy], first, reports[policy], routing, bandwidth)


class _Run:
  """One policy's decode from a fixed state."""

  def __init__(
    self,
    params: Params,
    batch: int,
    policy: RoutingPolicy,
    *,
    tokens: Tokens,
    length: int,
    steps: int,
    seed: int,
  ):
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

  def warm_up(self) -> RoutingReport | None:
    """Compiles, and decodes once with statistics."""
    counted = self._decode(self._prefilled(collect_totals=True))
    self._start = self._prefilled(collect_totals=False)
    self.seconds()
    return None if counted.totals is None else report(counted.totals, self.params.decoder)

  def seconds(self) -> float:
    """Time of one decode of all steps."""
    state = jax.block_until_ready(jax.tree.map(jnp.copy, self._start))
    begin = time.perf_counter()
    jax.block_until_ready(self._decode(state))
    return time.perf_counter() - begin


@functools.partial(jax.jit, static_argnames=("top_k", "router", "policy", "rounds"))
def _route_often(
  logits: jax.Array,
  selection_bias: jax.Array | None,
  *,
  top_k: int,
  router: object,
  policy: RoutingPolicy,
  rounds: int,
) -> jax.Array:
  def route(_: jax.Array, carry: jax.Array) -> jax.Array:
    routing, tiles = route_to_tiles(
      logits + carry,
      top_k,
      policy=policy,
      router=router,  # pyright: ignore[reportArgumentType]
      valid=jnp.ones(logits.shape[:1], bool),
      selection_bias=selection_bias,
    )
    # Always zero, but the compiler cannot know: it keeps the rounds apart and what experts are given alive.
    used = routing.weights.sum() + routing.ids.sum().astype(jnp.float32)
    if tiles is not None and jax.default_backend() == "gpu":
      used += tiles.in_use.astype(jnp.float32)
    return jnp.minimum(used, 0.0)

  return jax.lax.fori_loop(0, rounds, route, jnp.zeros((), jnp.float32))


def _routing_seconds(params: Params, batch: int, policy: RoutingPolicy, seed: int, rounds: int = 100) -> float:
  """Time of all layers' routing in a step, on random logits, inside one compiled loop."""
  total = 0.0
  seen: dict[tuple, float] = {}
  for layer in params.decoder.layers:
    if not isinstance(layer.ffn, MoE):
      continue
    spec = layer.ffn.spec
    key = (spec.experts, spec.top_k, spec.router, spec.selection_bias)
    if key not in seen:
      logits = jax.random.normal(jax.random.key(seed), (batch, spec.experts))
      bias = jnp.zeros((spec.experts,)) if spec.selection_bias else None
      rule: dict[str, Any] = {"top_k": spec.top_k, "router": spec.router, "policy": policy}
      run = functools.partial(_route_often, logits, bias, **rule, rounds=rounds)
      run().block_until_ready()
      times = []
      for _ in range(5):
        begin = time.perf_counter()
        run().block_until_ready()
        times.append(time.perf_counter() - begin)
      seen[key] = statistics.median(times) / rounds
    total += seen[key]
  return total


def _row(
  params: Params,
  batch: int,
  policy: RoutingPolicy,
  seconds: float,
  first_seconds: float,
  routing: RoutingReport | None,
  routing_seconds: float,
  bandwidth: float | None,
) -> Row:
  size = params.decoder.embedding[...].dtype.itemsize
  read = counts(params.spec).always_read * size + (routing.expert_bytes if routing else 0.0)
  return Row(
    policy=format_policy(policy),
    batch=batch,
    tokens_per_second=batch / seconds,
    step_ms=seconds * 1e3,
    active_experts=float(np.mean(routing.active_experts)) if routing else 0.0,
    own_experts=float(np.mean(routing.own_experts)) if routing else 0.0,
    expert_bytes=routing.expert_bytes if routing else 0.0,
    bytes_per_second=read / seconds,
    routing_ms=routing_seconds * 1e3,
    retained_mass=float(np.mean(routing.retained_mass)) if routing else 1.0,
    speedup=first_seconds / seconds,
    read_bandwidth=bandwidth,
  )
