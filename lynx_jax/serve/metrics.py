"""What the server and its engine have done, for Prometheus.

Counts are plain numbers: adding to them costs a streamed token next to nothing. They become metrics when they are read.
"""

import bisect
import collections
import time
from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from lynx_jax.engine.host.request import WEIGHTS, Piece, Quality, Request
from lynx_jax.engine.host.stats import HostStats
from lynx_jax.engine.step_log import StepLog

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SHARES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 1.0)


class Histogram:
  """Counts of values by the smallest bound that holds them."""

  def __init__(self, bounds: Sequence[float]):
    self._bounds = tuple(bounds)
    self._counts = [0] * (len(bounds) + 1)
    self._sum = 0.0

  def add(self, value: float) -> None:
    """Counts a value."""
    self._counts[bisect.bisect_left(self._bounds, value)] += 1
    self._sum += value

  def metric(self, name: str, about: str) -> Metric:
    """As Prometheus has it: counts add up from bound to bound."""
    buckets, total = [], 0
    for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
      total += count
      buckets.append((bound, total))
    return HistogramMetricFamily(name, about, buckets=buckets, sum_value=self._sum)


class Metrics:
  """Counts of requests by the event loop, and of steps by the engine's thread.

  Attributes:
    accepted: requests that the engine has taken.
    ended: of these, by how they ended; `left` counts those whose client was gone.
    tokens: drawn, by the request's quality.
    first_token: seconds from a request to its first token.
    between_tokens: seconds from a token to the next.
    latency: seconds from a request to its end.
  """

  def __init__(self, log: StepLog):
    """Over the steps of one engine."""
    self.accepted = 0
    self.ended: collections.Counter[str] = collections.Counter()
    self.tokens = dict.fromkeys(WEIGHTS, 0)
    self.first_token, self.between_tokens = Histogram(_SECONDS), Histogram(_SECONDS)
    self.latency = Histogram(_SECONDS)
    self._log, self._seen = log, log.steps
    self._step_seconds, self._retained = Histogram(_SECONDS), Histogram(_SHARES)
    self._experts = self._own_experts = 0
    self._limit: int | None = None
    self._recent: collections.deque[tuple[int, float]] = collections.deque(maxlen=1024)

  def note_steps(self) -> None:
    """In the engine's thread: counts the steps that are new in the log."""
    log = self._log
    for back in range(min(log.steps - self._seen, len(log.recent)), 0, -1):
      step = log.recent[-back]
      self._step_seconds.add(step.seconds)
      self._recent.append((step.rows + step.chunk_tokens, step.seconds))
      self._experts += sum(step.experts)
      self._own_experts += sum(step.own_experts)
      self._limit = step.limit
      if step.own_experts and step.rows:
        self._retained.add(step.retained)
    self._seen = log.steps

  def pace(self, steps: int) -> tuple[int, float]:
    """Tokens and seconds of the newest steps."""
    newest = list(self._recent.copy())[-steps:]
    return sum(tokens for tokens, _ in newest), sum(seconds for _, seconds in newest)

  def families(self, stats: HostStats | None, ready: Sequence[str], compiled_late: int) -> Iterator[Metric]:
    """All metrics now, with what the engine holds and its compiled programs."""
    yield from self._of_requests()
    yield from self._of_steps()
    yield _gauge("programs_ready", "Step programs that are compiled", len(ready))
    yield _counter("recompiles", "Programs compiled after the warm-up; should stay 0", compiled_late)
    if stats is not None:
      yield from _of_engine(stats)

  def _of_requests(self) -> Iterator[Metric]:
    yield _counter("requests_accepted", "Requests that the engine has taken, one a choice", self.accepted)
    ended = CounterMetricFamily("lynx:request_success", "Requests that have ended", labels=["finished_reason"])
    for reason in ("stop", "length", "abort", "error", "left"):
      ended.add_metric([reason], self.ended[reason])
    yield ended
    yield _counter("generation_tokens", "Tokens drawn", sum(self.tokens.values()))
    tokens = CounterMetricFamily("lynx:decode_tokens", "Tokens drawn, by the request's quality", labels=["quality"])
    for quality, count in self.tokens.items():
      tokens.add_metric([quality], count)
    yield tokens
    yield self.first_token.metric("lynx:time_to_first_token_seconds", "From a request to its first token")
    yield self.between_tokens.metric("lynx:inter_token_latency_seconds", "From a token to the next")
    yield self.latency.metric("lynx:e2e_request_latency_seconds", "From a request to its end")

  def _of_steps(self) -> Iterator[Metric]:
    log = self._log
    yield _counter("steps", "Steps of the engine", log.steps)
    yield self._step_seconds.metric("lynx:step_seconds", "Time of a step")
    yield _counter("step_host_seconds", "Time of steps on the host", log.host_seconds)
    yield _counter("step_dispatch_seconds", "Time of the calls that give steps to the device", log.dispatch_seconds)
    yield _counter("device_recoveries", "Failures of the device that the engine has outlived", log.recoveries)
    yield _counter("experts_active", "Distinct experts read, summed over layers and steps", self._experts)
    yield _counter("experts_own", "What the model's own routing would have read (--stats)", self._own_experts)
    saved = max(self._own_experts - self._experts, 0) if self._own_experts else 0
    yield _counter("experts_saved", "Experts that were not read, of the model's own (--stats)", saved)
    yield self._retained.metric("lynx:retained_mass", "Worth of their experts that rows keep, a step (--stats)")
    yield _gauge("experts_budget", "Most experts that adaptive rows may read in a layer; -1 is no limit",
                 -1 if self._limit is None else self._limit)  # fmt: skip


class RequestMeter:
  """Times one request of an engine; it ends once."""

  def __init__(self, metrics: Metrics, request: Request):
    self._metrics = metrics
    self._quality: Quality = request.quality
    self._start = time.perf_counter()
    self._last: float | None = None
    self._ended = False

  def note(self, piece: Piece) -> None:
    """Counts what a step gave."""
    metrics = self._metrics
    if piece.token_ids:
      now = time.perf_counter()
      if self._last is None:
        metrics.first_token.add(now - self._start)
      else:
        metrics.between_tokens.add(now - self._last)
      self._last = now
      metrics.tokens[self._quality] += len(piece.token_ids)
    if piece.finished is not None and not self._ended:
      self._ended = True
      metrics.ended[piece.finished.reason] += 1
      metrics.latency.add(time.perf_counter() - self._start)

  def close(self) -> None:
    """Counts a request that nobody waits for any more, unless it has ended."""
    if not self._ended:
      self._ended = True
      self._metrics.ended["left"] += 1


def _of_engine(stats: HostStats) -> Iterator[Metric]:
  yield _gauge("num_requests_running", "Requests that hold a slot", stats.running)
  yield _gauge("num_requests_waiting", "Requests that wait", stats.waiting)
  yield _gauge("waiting_tokens", "Tokens of the prompts that wait", stats.waiting_tokens)
  blocks = GaugeMetricFamily("lynx:kv_blocks", "Blocks of the cache", labels=["state"])
  for state, count in (("free", stats.free_blocks), ("held", stats.held_blocks), ("cached", stats.cached_blocks)):
    blocks.add_metric([state], count)
  yield blocks
  total = stats.free_blocks + stats.held_blocks + stats.cached_blocks
  yield _gauge("kv_cache_usage_perc", "Share of the cache that requests hold", stats.held_blocks / max(total, 1))
  yield _gauge("kv_waste_ratio", "Share of what requests hold that is not written", stats.waste)
  yield _counter("num_preemptions", "Requests that lost their blocks", stats.preemptions)
  yield _counter("adaptive_recompute", "Adaptive rows' positions that were computed again", stats.recomputed)
  yield _counter("prompt_tokens", "Tokens of prompts", stats.prompt_tokens)
  yield _counter("prefix_cache_queries", "Tokens of prompts that were looked for in the cache", stats.prompt_tokens)
  yield _counter("prefix_cache_hits", "Tokens of prompts that were found there", stats.cached_tokens)


def _counter(name: str, about: str, value: float) -> Metric:
  return CounterMetricFamily(f"lynx:{name}", about, value=value)


def _gauge(name: str, about: str, value: float) -> Metric:
  return GaugeMetricFamily(f"lynx:{name}", about, value=value)
