"""Decode speed of policies and of forms of weights, interleaved in one run, with the bytes that explain it.

Every policy starts from the same prefilled state. In each repeat all of them run one after the other, and the memory's
read bandwidth is measured right before and after each decode, so that other load on the machine slows both sides of a
ratio. Ratios are medians of ratios within a repeat.
"""

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lynx_jax.bench.fed_decode import FedDecode, Tokens
from lynx_jax.bench.plain_reading import bytes_a_step, plain_reading
from lynx_jax.engine.report import RoutingReport
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, format_policy, route_by


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
  """One policy at one batch size, with one form of weights.

  Attributes:
    weights: the name of the form.
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
    speedup: step time of the first form and policy at this batch, over this one's.
    read_bandwidth: bytes a second that the machine read on the same threads between the decodes, median; None where
      there is no native code to measure it.
    read_fraction: how much of it a decode reached.
  """

  weights: str = ""
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
  read_fraction: float | None


def bench_decode(
  params: Params | Mapping[str, Params],
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
    params: a loaded model, or the same model with its weights held in several forms, by the forms' names.
    batches: numbers of rows.
    policies: compared at each batch; the first, with the first form, is what `speedup` is relative to.
    tokens: `random` feeds random tokens, `sampled` those that the model draws at temperature 1.
    prompt_length: random tokens in each prompt.
    steps: decode steps a repeat.
    repeats: timed repeats of each policy.
    seed: of prompts and tokens.
    progress: called with a line on what is being measured.

  Raises:
    ValueError: prompts and steps do not fit the model's context.
  """
  models = params if isinstance(params, Mapping) else {"": params}
  for batch in batches:
    runs = {
      (name, policy): FedDecode(model, batch, policy, tokens=tokens, length=prompt_length, steps=steps, seed=seed)
      for name, model in models.items()
      for policy in policies
    }
    progress(f"batch {batch}: compiling {len(runs)} {'programs' if len(runs) > 1 else 'program'}")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
      reports = dict(zip(runs, threads.map(FedDecode.warm_up, runs.values()), strict=True))
    timed: dict[tuple[str, RoutingPolicy], list[_Timed]] = {one: [] for one in runs}
    before = plain_reading()
    for repeat in range(repeats):
      progress(f"batch {batch}: repeat {repeat + 1} of {repeats}")
      for one, run in runs.items():
        seconds, after = run.seconds() / steps, plain_reading()
        timed[one].append(_Timed(seconds, None if before is None or after is None else (before + after) / 2))
        before = after
    first = next(iter(timed.values()))
    for (name, policy), times in timed.items():
      routing = _routing_seconds(models[name], batch, policy, seed)
      row = _row(models[name], batch, policy, times, first, reports[name, policy], routing)
      yield dataclasses.replace(row, weights=name)


class _Timed(NamedTuple):
  """Seconds of a decode step, and the bytes a second that could be read around it."""

  seconds: float
  bandwidth: float | None


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
    routing = route_by(
      policy
    )(
      logits + carry,
      top_k,
      router=router,  # pyright: ignore[reportArgumentType]
      valid=jnp.ones(logits.shape[:1], bool),
      selection_bias=selection_bias,
    )
    # Always zero, but the compiler cannot know that: it keeps the rounds apart, and it keeps the routing alive.
    used = routing.weights.sum() + routing.ids.sum().astype(jnp.float32)
    if routing.tiles is not None and jax.default_backend() == "gpu":
      used += routing.tiles.in_use.astype(jnp.float32)
    return jnp.minimum(used, 0.0)

  return jax.lax.fori_loop(0, rounds, route, jnp.zeros((), jnp.float32))


def _routing_seconds(params: Params, batch: int, policy: RoutingPolicy, seed: int, rounds: int = 100) -> float:
  """Time of all layers' routing in a step, on random logits, inside one compiled loop."""
  total = 0.0
  seen: dict[tuple, float] = {}
  for spec in params.spec.moe_specs:
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
  timed: Sequence[_Timed],
  first: Sequence[_Timed],
  routing: RoutingReport | None,
  routing_seconds: float,
) -> Row:
  read = bytes_a_step(params, routing)
  seconds = statistics.median(one.seconds for one in timed)
  bandwidths = [(one.seconds, one.bandwidth) for one in timed if one.bandwidth is not None]
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
    speedup=statistics.median(own.seconds / one.seconds for own, one in zip(first, timed, strict=True)),
    read_bandwidth=statistics.median(bandwidth for _, bandwidth in bandwidths) if bandwidths else None,
    read_fraction=statistics.median(read / taken / bandwidth for taken, bandwidth in bandwidths)
    if bandwidths
    else None,
  )
