"""The arithmetic of `bench engine`: loads, arrivals, and figures from parts that are stated here."""

import re
import statistics

import numpy as np
import pytest

from lynx_jax.bench.arrivals import AllAtOnce, Bursts, Poisson, parse_arrivals
from lynx_jax.bench.engine.figures import engine_figures, percentiles, static_figures
from lynx_jax.bench.engine.load import Load, parse_lengths
from lynx_jax.bench.engine.serve import Served, ServedStep
from lynx_jax.bench.engine.static_batches import StaticRun
from lynx_jax.engine.step_log import StepRecord


def step(rows: int, chunk_tokens: int, seconds: float, experts, own=(), waste=None, host=0.0) -> ServedStep:
  record = StepRecord(
    rows=rows, chunk_tokens=chunk_tokens, program="", limit=None, seconds=seconds, experts=experts, own_experts=own,
    retained=1.0,
  )  # fmt: skip
  return ServedStep(record, waste, host, host / 2)


SERVED = Served(
  seconds=10.0,
  arrived={"a": 0.0, "b": 1.0},
  token_times={"a": [2.0, 3.0, 5.0, 5.5], "b": [4.0, 4.5]},
  tokens={"a": [1, 2, 3, 4], "b": [5, 6]},
  steps=[
    step(0, 30, 2.0, (8, 6), waste=0.5, host=0.004),
    step(2, 10, 3.0, (8, 8), waste=0.25, host=0.002),
    step(2, 0, 0.5, (4, 2), waste=0.3, host=0.001),
    step(2, 0, 0.25, (4, 6), waste=0.1, host=0.003),
    step(2, 0, 0.75, (5, 3), waste=0.05, host=0.002),
    step(1, 0, 0.1, (1, 2), host=0.001),
  ],
  preemptions=3,
  compiled=0,
)


def test_figures_of_a_served_load():
  found = engine_figures(SERVED, own_routing=True)
  assert (found.requests, found.output_tokens, found.preemptions, found.compiled) == (2, 6, 3, 0)
  assert found.tokens_per_second == pytest.approx(6 / 10)
  # First tokens 2 and 3 seconds after their arrivals.
  assert found.ttft_ms.p50 == pytest.approx(2500)
  assert found.ttft_ms.p99 == pytest.approx(2990)
  # Gaps 1, 2, 0.5 and 0.5 s. A step that only decodes two rows takes 0.5 s in the median.
  assert found.itl_ms is not None
  assert found.itl_ms.p50 == pytest.approx(750)
  assert found.full_step_ms == pytest.approx(500)
  assert found.itl_p99_over_step == pytest.approx(found.itl_ms.p99 / 500)
  # Nothing ran any more after the last step.
  assert found.kv_waste == pytest.approx((0.5 + 0.25 + 0.3 + 0.1 + 0.05) / 5)
  assert found.host_mean_ms == pytest.approx(13 / 6)


def test_steps_are_told_apart_by_whether_they_read_prompts():
  found = engine_figures(SERVED, own_routing=True)
  assert found.decode is not None
  assert found.mixed is not None
  assert (found.decode.steps, found.mixed.steps) == (4, 2)
  assert (found.decode.rows, found.mixed.rows) == (7 / 4, 1)
  assert (found.decode.chunk_tokens, found.mixed.chunk_tokens) == (0, 20)
  assert found.decode.step_ms == pytest.approx(375)
  assert found.decode.experts == found.decode.own_experts == pytest.approx((4 + 2 + 4 + 6 + 5 + 3 + 1 + 2) / 8)
  assert found.mixed.experts == pytest.approx(7.5)
  assert found.decode.host_ms == pytest.approx(1.5)
  assert found.decode.dispatch_ms == pytest.approx(0.75)


def test_the_models_own_experts_are_known_only_where_they_were_counted():
  found = engine_figures(SERVED, own_routing=False)
  assert found.decode is not None
  assert found.decode.own_experts is None
  counted = [step(2, 0, 1.0, (2, 2), own=(4, 6)), step(2, 0, 1.0, (3, 3), own=(5, 5))]
  served = Served(
    seconds=1.0, arrived={"a": 0.0}, token_times={"a": [1.0]}, tokens={"a": [1]}, steps=counted, preemptions=0,
    compiled=0,
  )  # fmt: skip
  found = engine_figures(served, own_routing=False)
  assert found.decode is not None
  assert (found.decode.experts, found.decode.own_experts) == (2.5, 5)
  # One token has no gap, and no step read a prompt.
  assert found.itl_ms is found.itl_p99_over_step is found.mixed is None


def test_figures_of_fixed_batches():
  run = StaticRun(
    seconds=4.0, first_token={"a": 1.0, "b": 3.0}, tokens={"a": [1] * 10, "b": [1] * 30}, row_steps=60, compiled=0
  )
  found = static_figures(run)
  assert (found.output_tokens, found.tokens_per_second) == (40, 10.0)
  assert found.useful == pytest.approx(40 / 60)
  assert found.ttft_ms.p50 == pytest.approx(2000)


def test_percentiles_are_those_of_the_standard_library():
  times = np.random.default_rng(3).exponential(size=57).tolist()
  cuts = statistics.quantiles(times, n=100, method="inclusive")
  found = percentiles(times)
  assert found.p50 == pytest.approx(cuts[49] * 1e3)
  assert found.p99 == pytest.approx(cuts[98] * 1e3)


def test_lengths_are_drawn_from_the_whole_range_and_a_seed_gives_the_same_requests():
  load = Load(requests=300, prompt=(3, 7), output=(1, 4), seed=5)
  timed = load.timed_requests(vocab=11)
  assert {len(request.prompt) for _, request in timed} == {3, 4, 5, 6, 7}
  assert {request.max_new_tokens for _, request in timed} == {1, 2, 3, 4}
  assert {token for _, request in timed for token in request.prompt} == set(range(11))
  assert all(at == 0 and request.ignore_eos for at, request in timed)
  assert load.timed_requests(vocab=11) == timed
  assert Load(requests=300, prompt=(3, 7), output=(1, 4), seed=6).timed_requests(vocab=11) != timed


def test_arrivals_at_random_have_the_rate_and_the_spread_of_a_poisson_process():
  times = Poisson(rate=4).times(20_000, np.random.default_rng(0))
  gaps = np.diff(times)
  assert (gaps >= 0).all()
  # The mean and the standard deviation of an exponential distribution are both 1 / rate.
  assert gaps.mean() == pytest.approx(0.25, rel=0.03)
  assert gaps.std() == pytest.approx(0.25, rel=0.03)


def test_bursts_come_at_regular_times():
  times = Bursts(size=3, every=2).times(8, np.random.default_rng(0))
  assert times.tolist() == [0, 0, 0, 2, 2, 2, 4, 4]


def test_arrivals_and_lengths_are_read_from_text():
  assert parse_arrivals("all") == AllAtOnce()
  assert parse_arrivals("poisson:rate=4") == Poisson(rate=4.0)
  assert parse_arrivals("bursts:size=16,every=0.5") == Bursts(size=16, every=0.5)
  assert parse_lengths("x", "16:512") == (16, 512)
  assert parse_lengths("x", "128") == (128, 128)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("poison:rate=4", "arrivals is 'poison:rate=4': expected all, poisson:rate=4 or"),
    ("poisson", "arrivals is 'poisson'"),
    ("poisson:rate", "arrivals is 'poisson:rate'"),
    ("poisson:rate=0", "Poisson.rate is 0"),
    ("all:rate=4", "arrivals is 'all:rate=4'"),
    ("bursts:size=0,every=1", "Bursts.size is 0"),
    ("bursts:size=2", "arrivals is 'bursts:size=2'"),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_other_arrivals_are_refused(text, message):
  with pytest.raises(ValueError, match=re.escape(message)):
    parse_arrivals(text)


@pytest.mark.parametrize("lengths", ["9:3", "0:3", "x", "3:x"])
@pytest.mark.usefixtures("own_errors")
def test_other_lengths_are_refused(lengths):
  with pytest.raises(ValueError, match=r"--prompt-length|Load\.prompt"):
    Load(prompt=parse_lengths("--prompt-length", lengths))
