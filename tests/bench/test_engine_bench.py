"""The measurements of `bench engine` run on a small model: what they serve, count and divide; never how fast it is."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

import lynx_jax
from lynx_jax.bench.engine.arriving_prompts import arriving_prompts
from lynx_jax.bench.engine.bench import bench_load
from lynx_jax.bench.engine.compilations import Compilations
from lynx_jax.bench.engine.load import Load, TimedRequest
from lynx_jax.bench.engine.prefix_hit import prefix_hit
from lynx_jax.bench.engine.programs_ready import programs_ready
from lynx_jax.bench.engine.serve import serve
from lynx_jax.bench.engine.static_batches import StaticBatches, static_cache_bytes
from lynx_jax.bench.engine.steady_decode import steady_decode
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.routing import TopK
from tests.command_line import run
from tests.small_models import VOCAB, small_params

# All measurements of this file run engines of these sizes, so that they share their programs.
SETTINGS = EngineSettings(slots=2, context=64, mixed=(16,))
LOAD = Load(requests=5, prompt=(3, 16), output=(1, 20), seed=1)


class Ticks:
  """A clock that goes on by a second whenever it is read, and by what is slept."""

  def __init__(self):
    self.now, self.slept = 0.0, []

  def __call__(self) -> float:
    self.now += 1.0
    return self.now

  def sleep(self, seconds: float) -> None:
    self.now += seconds
    self.slept.append(seconds)


def warm_core(**changes) -> EngineCore:
  core = EngineCore(small_params(), dataclasses.replace(SETTINGS, **changes))
  core.warm_up()
  return core


def test_engine_and_fixed_batches_give_every_request_the_same_tokens_to_its_exact_length():
  timed = LOAD.timed_requests(VOCAB)
  served = serve(warm_core(), timed)
  batches = StaticBatches(small_params(), timed, rows=2, policy=None)
  batches.warm_up()
  static = batches.run()
  assert served.tokens == static.tokens
  assert {name: len(tokens) for name, tokens in served.tokens.items()} == {
    request.id: request.max_new_tokens for _, request in timed
  }
  assert {name: len(times) for name, times in served.token_times.items()} == {
    name: len(tokens) for name, tokens in served.tokens.items()
  }
  # Five requests are batches of 2, 2 and 1, each run to its longest output.
  outputs = [request.max_new_tokens for _, request in timed]
  assert static.row_steps == 2 * max(outputs[:2]) + 2 * max(outputs[2:4]) + outputs[4]
  assert (served.compiled, static.compiled) == (0, 0)


def test_steps_hold_what_was_served():
  timed = LOAD.timed_requests(VOCAB)
  served = serve(warm_core(run_ahead=1), timed)
  # The last chunk of a prompt draws the first token, and every row of a later step another.
  rows = sum(step.record.rows for step in served.steps)
  assert rows + len(timed) == sum(request.max_new_tokens for _, request in timed)
  assert sum(step.record.chunk_tokens for step in served.steps) == sum(len(request.prompt) for _, request in timed)
  # While a step runs the next is dispatched, and after the last one there is none.
  assert all(step.host_seconds > 0 for step in served.steps)
  assert [step.dispatch_seconds > 0 for step in served.steps] == [True] * (len(served.steps) - 1) + [False]


def test_waste_is_what_tables_hold_and_nobody_wrote():
  request = Request(id="a", prompt=tuple(range(10)), max_new_tokens=4, ignore_eos=True)
  served = serve(warm_core(run_ahead=0), [TimedRequest(0.0, request)])
  # A block of 32 positions: 10 are written by the prompt's step, and one by each that follows; then it is given back.
  assert [step.waste for step in served.steps] == [1 - 10 / 32, 1 - 11 / 32, 1 - 12 / 32, None]


def test_requests_wait_for_their_time_and_first_tokens_are_timed_from_it():
  def timed(at: float, name: str) -> TimedRequest:
    return TimedRequest(at, Request(id=name, prompt=(1, 2, 3), max_new_tokens=2, ignore_eos=True))

  clock = Ticks()
  served = serve(warm_core(), [timed(0.0, "a"), timed(500.0, "b")], clock=clock, sleep=clock.sleep)
  assert served.arrived == {"a": 0.0, "b": 500.0}
  assert served.token_times["a"][-1] < 100
  assert 500 < served.token_times["b"][0] < 510
  # Nothing ran between the two.
  assert len(clock.slept) == 1
  assert 400 < clock.slept[0] < 500


def test_a_fixed_batch_waits_for_its_last_request():
  timed = [
    one._replace(at=at) for one, at in zip(LOAD.timed_requests(VOCAB), (0.0, 0.0, 0.0, 500.0, 500.0), strict=True)
  ]
  batches = StaticBatches(small_params(), timed, rows=2, policy=None)
  static = batches.run(clock=(clock := Ticks()), sleep=clock.sleep)
  assert 0 < static.first_token["0"] == static.first_token["1"] < 10
  # The third request waits for the fourth.
  assert static.first_token["2"] == static.first_token["3"] + 500
  assert 0 < static.first_token["3"] < static.first_token["4"] < 20


@pytest.mark.slow
def test_more_rows_share_the_memory_of_a_fixed_batch():
  timed = LOAD.timed_requests(VOCAB)
  memory = static_cache_bytes(small_params(), timed, rows=2)
  batches = StaticBatches(small_params(), timed, rows=2, policy=None)
  assert memory == sum(leaf.nbytes for leaf in jax.tree.leaves(batches._prefill(batches.batches[0]).cache))
  sizes = dataclasses.replace(SETTINGS, slots=4)
  (row,) = bench_load(small_params(), LOAD, [TopK()], sizes, static=2, same_memory=True)
  # Two requests at their longest have 36 positions each, and the pool one block of 32 a request.
  assert row.engine.decode is not None
  assert 1 < row.engine.decode.rows <= 2
  with pytest.raises(ValueError, match="same_memory is True: expected False where there are no fixed batches"):
    list(bench_load(small_params(), LOAD, [TopK()], sizes, same_memory=True))


def test_what_is_compiled_in_a_context_is_counted():
  program = jax.jit(lambda x: 3 * x + 1).lower(jax.ShapeDtypeStruct((7,), np.float32))
  with Compilations() as compilations:
    compiled = program.compile()
    assert compilations.count == 1
    compiled(np.zeros((7,), np.float32))
  program.compile()
  assert compilations.count == 1


def test_a_turn_of_each_policy_and_the_ratio_of_its_rates():
  (row,) = bench_load(small_params(), LOAD, [TopK()], SETTINGS, static=2)
  assert (row.policy, row.repeat) == ("topk", 0)
  assert row.static is not None
  expected = (row.engine.output_tokens / row.engine.seconds) / (row.static.output_tokens / row.static.seconds)
  assert row.over_static == pytest.approx(expected)
  assert row.engine.output_tokens == row.static.output_tokens
  assert row.engine.compiled == row.static.compiled == 0


@pytest.mark.usefixtures("own_errors")
def test_a_load_that_does_not_fit_the_model_is_refused():
  load = Load(requests=1, prompt=(100, 100), output=(29, 29))
  with pytest.raises(ValueError, match="positions of a request is 129: expected at most 128; the model was made for"):
    next(bench_load(small_params(), load, [TopK()], SETTINGS))


def test_steady_decode_times_the_steps_that_it_says():
  found = steady_decode(small_params(), SETTINGS, steps=8, prompt=24, repeats=3, clock=Ticks())
  # The clock is read once a step of the engine, and before and after the loop's eight.
  assert (found.rows, found.steps) == (2, 8)
  assert found.engine_ms == pytest.approx(1000)
  assert found.loop_ms == pytest.approx(1000 / 8)
  assert found.ratio == pytest.approx(1 / 8)


def test_prompts_arrive_beside_rows_that_decode():
  first, held = arriving_prompts(small_params(), SETTINGS, prompt=24, prompts=1, quiet=1, clock=Ticks())
  assert (first.rows, first.prompt, first.step_ms) == (1, 24, None)
  # The clock is read once a step, and once more when the prompt arrives.
  assert first.pure_ms in (1000, 1500, 2000)
  assert held.step_ms == first.pure_ms
  for found in (first, held):
    assert found.over_pure == pytest.approx(found.itl_p99_ms / found.pure_ms)
    # 24 tokens need two chunks of at most 15.
    assert found.ttft_ms >= 2000


def test_the_second_prompt_of_a_pair_finds_the_blocks_of_the_first():
  found = prefix_hit(small_params(), SETTINGS, prompt=40, repeats=2, clock=Ticks())
  # Seven eighths of 40 hold one block.
  assert (found.prompt, found.cached) == (40, 32)
  assert found.cold_ms == found.hit_ms == 1000
  assert found.ratio == 1


def test_the_command_writes_all_that_was_asked_for(capsys, tmp_path, monkeypatch):
  monkeypatch.setattr(lynx_jax, "load", lambda *arguments, **options: small_params())
  code, out, err = run(
    capsys, "bench", "engine", "--requests", 5, "--prompt-length", "3:16", "--output-length", "1:20", "--slots", 2,
    "--mixed", 16, "--seed", 1, "--static", 2, "--prefix", 40, "--arrivals", "bursts:size=2,every=0.01", "--json",
    tmp_path / "out.json",
  )  # fmt: skip
  assert code == 0, err
  found = json.loads((tmp_path / "out.json").read_text())
  (row,) = found["rows"]
  assert row["engine"]["output_tokens"] == row["static"]["output_tokens"]
  assert row["engine"]["compiled"] == row["static"]["compiled"] == 0
  assert row["engine"]["ttft_ms"].keys() == {"p50", "p99"}
  assert row["engine"]["decode"]["own_experts"] == row["engine"]["decode"]["experts"]
  assert found["load"]["arrivals"] == "bursts:size=2,every=0.01"
  assert found["prefix"]["cached"] == 32
  assert found["steady"] == found["arriving"] == []
  assert "prefix hit of 32 of 40 tokens" in out
  assert f"{row['over_static']:.2f}x" in out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--arrivals", "sometimes"], "arrivals is 'sometimes': expected all"),
    (["--output-length", "9:x"], "--output-length is '9:x'"),
    (["--mixed", "a"], "--mixed is 'a': expected rising whole numbers"),
    (["--requests", -1], "--requests is -1: expected a whole number of at least 0"),
    (["--static", 0], "--static is 0"),
    (["--json", "."], "cannot write ."),
  ],
)
@pytest.mark.usefixtures("own_errors")
def test_bad_flags_are_one_line_that_names_them(capsys, arguments, message):
  code, out, err = run(capsys, "bench", "engine", *arguments)
  assert (code, out) == (2, "")
  assert message in err


def test_programs_from_the_disk_are_not_compiled_again(tmp_path):
  settings = EngineSettings(slots=1, context=32, mixed=(8,))
  ticks = itertools.count(step=2)
  found = programs_ready(small_params(), settings, tmp_path, clock=lambda: float(next(ticks)))
  assert found.programs == len(list(tmp_path.iterdir())) == 2
  assert (found.compile_seconds, found.disk_seconds, found.ratio) == (2, 2, 1)
  assert found.compiled_from_disk == 0
  assert np.isfinite(found.ratio)
