"""Measures the time of a decode step by batch size, and of prefill and decode by the number of experts read."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.figures.plot import drawn
from lynx_jax.bench.decode import bench_decode
from lynx_jax.models.decoder import run_causal
from lynx_jax.models.params import Params
from lynx_jax.routing import CountVote, RoutingPolicy, TiledRouting, TopK, lynx_route_tiles

_PREFILL_LENGTH = 128


def measure_batches(params: Params, batches: Sequence[int], progress: Callable[[str], None]) -> list[dict[str, Any]]:
  """Times decode steps under the model's own routing at several batch sizes."""
  return [dataclasses.asdict(row) for row in bench_decode(params, batches, [TopK()], progress=progress)]


def draw_batches(rows: list[dict[str, Any]], path: Path) -> None:
  """Step time and distinct experts against the batch size."""
  with drawn(path) as (axes,):
    batches = [row["batch"] for row in rows]
    axes.plot(batches, [row["step_ms"] for row in rows], "o-", color="tab:red")
    axes.set(xlabel="rows of the batch", ylabel="decode step, ms", xscale="log", ylim=(0, None))
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.yaxis.label.set_color("tab:red")
    other = axes.twinx()
    other.plot(batches, [row["active_experts"] for row in rows], "s--", color="tab:blue")
    other.set(ylabel="distinct experts a layer", ylim=(0, None))
    other.yaxis.label.set_color("tab:blue")


def measure_experts(
  params: Params,
  batch: int,
  progress: Callable[[str], None],
  *,
  repeats: int = 5,
  prefill_length: int = _PREFILL_LENGTH,
) -> dict[str, Any]:
  """Times prefill and decode of `batch` rows under limits on the number of experts, in turns."""
  moe = params.spec.moe_specs[0]
  sizes = sorted(
    {max(moe.top_k, round(moe.experts * share)) for share in (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)}
  )
  policies: list[RoutingPolicy] = [TopK(), *(CountVote(size) for size in sizes)]
  decode = list(bench_decode(params, [batch], policies, progress=progress))
  tokens = np.random.default_rng(0).integers(params.spec.vocab, size=(batch, prefill_length))
  ids = jnp.asarray(tokens, jnp.int32)
  times: dict[RoutingPolicy, list[float]] = {policy: [] for policy in policies}
  for repeat in range(repeats + 1):
    progress(f"prefill of {batch} x {prefill_length} tokens: repeat {repeat} of {repeats}")
    for policy in policies:
      begin = time.perf_counter()
      jax.block_until_ready(_prefill(params, ids, policy=policy))
      times[policy].append(time.perf_counter() - begin)
  prefill = {policy: 1e3 * statistics.median(seconds[1:]) for policy, seconds in times.items()}
  return {
    "batch": batch,
    "prefill_length": prefill_length,
    "rows": [
      {
        "experts": moe.experts if isinstance(policy, TopK) else policy.keep,
        "decode_experts": row.active_experts,
        "decode_ms": row.step_ms,
        "prefill_ms": prefill[policy],
      }
      for policy, row in zip(policies, decode, strict=True)
      if isinstance(policy, TopK | CountVote)
    ],
  }


@functools.partial(jax.jit, static_argnames="policy")
def _prefill(params: Params, ids: jax.Array, *, policy: RoutingPolicy) -> jax.Array:
  """Computes hidden states of prompts whose tokens may use only the experts of one keep set."""

  def route(logits: jax.Array, top_k: int, /, **rule: Any) -> TiledRouting:
    return lynx_route_tiles(logits, top_k, policy=policy, **rule)

  return run_causal(params.decoder, ids, jnp.full(ids.shape[:1], ids.shape[1], jnp.int32), route=route)[0]


def draw_experts(found: dict[str, Any], path: Path) -> None:
  """Both phases, relative to all experts."""
  rows = sorted(found["rows"], key=lambda row: row["decode_experts"])
  whole = rows[-1]
  with drawn(path) as (axes,):
    for phase, colour, experts in (("decode", "tab:red", "decode_experts"), ("prefill", "tab:blue", "experts")):
      by_experts = sorted(rows, key=lambda row: row[experts])
      times = [row[f"{phase}_ms"] / whole[f"{phase}_ms"] for row in by_experts]
      axes.plot([row[experts] for row in by_experts], times, "o-", color=colour, label=phase)
    axes.set(xlabel="experts read a layer", ylabel="time, relative to the model's own routing", ylim=(0, None))
    axes.set_title(f"{found['batch']} rows; prefill of {found['prefill_length']} tokens a row", fontsize="medium")
    axes.legend()
