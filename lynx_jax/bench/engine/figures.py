"""What a served load comes to: rates, latencies, waste, host time and experts, as plain numbers.

Pure functions of what was noted while the load ran, so that each figure can be computed again from the same parts.
"""

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

from lynx_jax.bench.engine.serve import Served, ServedStep
from lynx_jax.bench.engine.static_batches import StaticRun


@dataclasses.dataclass(frozen=True, slots=True)
class Percentiles:
  """The middle and the tail of some times, in milliseconds."""

  p50: float
  p99: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepKind:
  """Means over the steps of one kind.

  Attributes:
    steps: how many.
    rows: decoding rows.
    chunk_tokens: tokens of prompts.
    step_ms: median time, in milliseconds.
    experts: distinct experts read a layer.
    own_experts: what the model's own routing would have read; None if it was not counted.
    host_ms: median work on the host, in milliseconds: plan, pack, read results, make pieces and text.
    dispatch_ms: median time of the call that gives a step to the device.
  """

  steps: int
  rows: float
  chunk_tokens: float
  step_ms: float
  experts: float
  own_experts: float | None
  host_ms: float
  dispatch_ms: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineFigures:
  """One policy's run of a load by the engine.

  Attributes:
    requests: of the load.
    output_tokens: that they got.
    seconds: from the start to the last token.
    tokens_per_second: new tokens.
    ttft_ms: from a request's arrival to its first token.
    itl_ms: between tokens of a request, over all of them.
    full_step_ms: median time of a step that only decodes, with as many rows as any.
    itl_p99_over_step: the tail of `itl_ms` over `full_step_ms`.
    kv_waste: share of allocated positions that was not written, in the mean over steps.
    host_mean_ms: work on the host a step, in the mean over all steps. Other load on the machine lengthens some steps by
      much, so the medians of `decode` and `mixed` say more about the engine.
    decode: the steps that only decoded; None if there was none.
    mixed: the steps that read prompts; None if there was none.
    preemptions: of sequences.
    compiled: programs compiled while the load ran.
  """

  requests: int
  output_tokens: int
  seconds: float
  tokens_per_second: float
  ttft_ms: Percentiles
  itl_ms: Percentiles | None
  full_step_ms: float | None
  itl_p99_over_step: float | None
  kv_waste: float
  host_mean_ms: float
  decode: StepKind | None
  mixed: StepKind | None
  preemptions: int
  compiled: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StaticFigures:
  """One policy's run of a load in fixed batches.

  Attributes:
    output_tokens: that requests got.
    seconds: from the start to the end of the last batch.
    tokens_per_second: new tokens.
    ttft_ms: from a request's arrival to the end of its batch's prefill.
    useful: share of decoded row-steps whose token somebody asked for.
    compiled: programs compiled while the load ran.
  """

  output_tokens: int
  seconds: float
  tokens_per_second: float
  ttft_ms: Percentiles
  useful: float
  compiled: int


def engine_figures(served: Served, *, own_routing: bool) -> EngineFigures:
  """The figures of a load that the engine served; with `own_routing` the experts that were read are the model's own."""
  first = [times[0] - served.arrived[name] for name, times in served.token_times.items()]
  gaps = [gap for times in served.token_times.values() for gap in np.diff(times).tolist()]
  output = sum(map(len, served.token_times.values()))
  decoding = [step for step in served.steps if not step.record.chunk_tokens]
  most = max((step.record.rows for step in decoding), default=0)
  full = [step.record.seconds for step in decoding if step.record.rows == most]
  full_step_ms = statistics.median(full) * 1e3 if full else None
  itl = percentiles(gaps) if gaps else None
  waste = [step.waste for step in served.steps if step.waste is not None]
  return EngineFigures(
    requests=len(served.token_times),
    output_tokens=output,
    seconds=served.seconds,
    tokens_per_second=output / served.seconds,
    ttft_ms=percentiles(first),
    itl_ms=itl,
    full_step_ms=full_step_ms,
    itl_p99_over_step=itl.p99 / full_step_ms if itl and full_step_ms else None,
    kv_waste=statistics.fmean(waste) if waste else 0.0,
    host_mean_ms=statistics.fmean(step.host_seconds for step in served.steps) * 1e3,
    decode=step_kind(decoding, own_routing=own_routing),
    mixed=step_kind([step for step in served.steps if step.record.chunk_tokens], own_routing=own_routing),
    preemptions=served.preemptions,
    compiled=served.compiled,
  )


def static_figures(run: StaticRun) -> StaticFigures:
  """The figures of a load in fixed batches."""
  output = sum(map(len, run.tokens.values()))
  return StaticFigures(
    output_tokens=output,
    seconds=run.seconds,
    tokens_per_second=output / run.seconds,
    ttft_ms=percentiles(list(run.first_token.values())),
    useful=output / run.row_steps,
    compiled=run.compiled,
  )


def step_kind(steps: Sequence[ServedStep], *, own_routing: bool) -> StepKind | None:
  """Means over steps; None if there is no step. With `own_routing` the experts that were read are the model's own."""
  if not steps:
    return None
  records = [step.record for step in steps]
  counted = own_routing or all(record.own_experts for record in records)
  return StepKind(
    steps=len(steps),
    rows=statistics.fmean(record.rows for record in records),
    chunk_tokens=statistics.fmean(record.chunk_tokens for record in records),
    step_ms=statistics.median(record.seconds for record in records) * 1e3,
    experts=_mean_experts([record.experts for record in records]),
    own_experts=_mean_experts([record.own_experts or record.experts for record in records]) if counted else None,
    host_ms=statistics.median(step.host_seconds for step in steps) * 1e3,
    dispatch_ms=statistics.median(step.dispatch_seconds for step in steps) * 1e3,
  )


def percentiles(seconds: Sequence[float]) -> Percentiles:
  """Percentiles of times, interpolated between neighbours, in milliseconds."""
  p50, p99 = np.percentile(np.asarray(seconds), [50, 99]) * 1e3
  return Percentiles(float(p50), float(p99))


def _mean_experts(counts: Sequence[tuple[int, ...]]) -> float:
  """The mean over steps and layers; 0 for a model without experts."""
  return statistics.fmean(one for step in counts for one in step) if counts[0] else 0.0
