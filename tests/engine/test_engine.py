"""The engine: what it answers equals the row alone, and faults end one request and not the engine."""

import asyncio
import dataclasses
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lynx_jax.engine.async_engine import AsyncEngine
from lynx_jax.engine.core import EngineCore, EngineDead
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Overloaded, Request
from lynx_jax.engine.paged.executor import Executor
from lynx_jax.engine.sampling import Sampling
from lynx_jax.engine.settings import EngineSettings
from lynx_jax.engine.steps import forward
from lynx_jax.models.params import Params
from lynx_jax.routing import Auto
from tests.small_models import VOCAB, greedy_alone, random_prompts, small_params

NEW = 10
# All engines of this file have these sizes, so that they share their compiled programs.
SIZES = EngineSettings(slots=4, context=96, mixed=(64,), run_ahead=1, policy=Auto(share=0.4), routing=True)
SMALL_POOL = dataclasses.replace(SIZES, kv_bytes=6 * 32 * 2 * 2 * 2 * 8 * 4)


def request(name: str, tokens: list[int], **changes) -> Request:
  return Request(**({"id": name, "prompt": tuple(tokens), "max_new_tokens": NEW, "quality": "exact"} | changes))


def answers(core: EngineCore, requests: list[Request]) -> dict[str, list[int]]:
  """Runs all requests to their ends."""
  for one in requests:
    core.submit(one)
  return collect(core)


def collect(core: EngineCore) -> dict[str, list[int]]:
  tokens: dict[str, list[int]] = {}
  for piece in core.run():
    tokens.setdefault(piece.request_id, []).extend(piece.token_ids)
  return tokens


PROMPTS = random_prompts((3, 50, 7, 70, 33, 1, 64, 20))


def test_whatever_runs_beside_it_a_row_gets_what_it_gets_alone():
  core = EngineCore(small_params(), SIZES)
  got = answers(core, [request(str(index), prompt) for index, prompt in enumerate(PROMPTS)])
  assert got == {str(index): greedy_alone(tuple(prompt)) for index, prompt in enumerate(PROMPTS)}
  assert core.idle
  assert core.stats().held_blocks == 0


def test_rows_that_join_later_or_lose_their_blocks_get_the_same():
  core = EngineCore(small_params(), SMALL_POOL)
  tokens: dict[str, list[int]] = {}
  waiting = [request(str(index), prompt) for index, prompt in enumerate(PROMPTS)]
  while waiting or not core.idle:
    if waiting:
      core.submit(waiting.pop(0))
    for piece in core.step():
      tokens.setdefault(piece.request_id, []).extend(piece.token_ids)
  assert tokens == {str(index): greedy_alone(tuple(prompt)) for index, prompt in enumerate(PROMPTS)}
  assert core.stats().held_blocks == 0


def test_a_cached_prefix_is_read_and_changes_nothing():
  core = EngineCore(small_params(), SIZES)
  prompt = PROMPTS[3]
  first = answers(core, [request("a", prompt)])["a"]
  core.submit(request("b", prompt))
  pieces = core.run()
  finished = pieces[-1].finished
  assert finished is not None
  assert finished.cached_tokens == 64
  assert [token for piece in pieces for token in piece.token_ids] == first == greedy_alone(tuple(prompt))


def test_what_adaptive_rows_wrote_never_serves_an_exact_request():
  core = EngineCore(small_params(), SIZES)
  prompt = PROMPTS[1]
  adaptive = answers(core, [request(str(index), prompt, quality="standard", max_new_tokens=40) for index in range(4)])
  longer = prompt + adaptive["0"]
  core.submit(request("exact", longer, max_new_tokens=4))
  pieces = core.run()
  assert pieces[-1].finished is not None
  # Blocks behind the prompt's own were written by adaptive rows.
  assert pieces[-1].finished.cached_tokens <= len(prompt)
  assert [token for piece in pieces for token in piece.token_ids] == greedy_alone(tuple(longer), 4)


def test_an_aborted_request_frees_what_it_holds_and_others_go_on():
  core = EngineCore(small_params(), SIZES)
  for index in range(3):
    core.submit(request(str(index), PROMPTS[index]))
  for _ in range(4):
    core.step()
  piece = core.abort("1")
  assert piece is not None
  assert piece.finished is not None
  assert piece.finished.reason == "abort"
  assert core.abort("1") is None
  got = collect(core)
  assert "1" not in got or len(got["1"]) < NEW
  assert core.stats().held_blocks == 0


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"max_new_tokens": 100}, "must fit the context of 96"),
    ({"prompt": (1, VOCAB)}, f"a token id below {VOCAB}"),
    ({"stop_strings": ("a",)}, "none, without a tokenizer"),
    ({"deterministic": True}, "start the engine with canonical chunks"),
  ],
)
def test_a_request_that_can_never_run_is_refused_alone(changes, message):
  core = EngineCore(small_params(), SIZES)
  core.submit(request("good", PROMPTS[0]))
  with pytest.raises(ValueError, match=message):
    core.submit(request("bad", PROMPTS[0], **changes))
  with pytest.raises(ValueError, match="another request of this name has not ended"):
    core.submit(request("good", PROMPTS[1]))
  assert collect(core)["good"] == greedy_alone(tuple(PROMPTS[0]))


def test_logits_that_are_not_finite_end_their_request_and_others_go_on():
  params = small_params()
  good = (3, 4, 7)
  expected = greedy_alone(good)
  # The other request alone meets the token whose embedding is damaged.
  damaged = next(token for token in range(VOCAB) if token not in {*good, *expected})
  broken = jax.tree.map(lambda leaf: leaf, params.decoder)
  broken.embedding.set_value(params.decoder.embedding[...].at[damaged].set(jnp.nan))
  core = EngineCore(Params(broken), SIZES)
  core.submit(request("bad", [3, damaged, 7]))
  core.submit(request("good", list(good)))
  pieces = core.run()
  ends = {piece.request_id: piece.finished for piece in pieces if piece.finished}
  assert (ends["bad"].reason, ends["bad"].fault, ends["bad"].output_tokens) == ("error", "logits", 0)
  assert "not finite at position 3" in ends["bad"].message
  assert (ends["good"].reason, ends["good"].fault) == ("length", None)
  assert [token for piece in pieces if piece.request_id == "good" for token in piece.token_ids] == expected


def test_one_failure_of_the_device_is_outlived(monkeypatch):
  core, real, calls = EngineCore(small_params(), SIZES), Executor.fetch, []

  def failing(self, pending):
    calls.append(pending)
    if len(calls) == 5:
      raise jax.errors.JaxRuntimeError("INTERNAL: a cosmic ray")
    return real(self, pending)

  monkeypatch.setattr(Executor, "fetch", failing)
  got = answers(core, [request(str(index), prompt) for index, prompt in enumerate(PROMPTS[:4])])
  assert got == {str(index): greedy_alone(tuple(prompt)) for index, prompt in enumerate(PROMPTS[:4])}
  assert core.log.recoveries == 1


def test_a_device_that_fails_twice_in_a_row_ends_the_engine_and_everyone_is_told(monkeypatch):
  def failing(self, plan):
    raise jax.errors.JaxRuntimeError("INTERNAL: gone")

  monkeypatch.setattr(Executor, "dispatch", failing)
  engine = Engine(small_params(), SIZES)
  answer = engine.submit(request("a", PROMPTS[0]))
  with pytest.raises(EngineDead, match="failed twice in a row: INTERNAL: gone"):
    answer.wait()
  with pytest.raises(EngineDead):
    engine.submit(request("b", PROMPTS[0]))
  engine.close()


def test_the_experts_of_each_token_come_back_and_replay_what_adaptive_rows_drew():
  core = EngineCore(small_params(), SIZES)
  for index in range(4):
    core.submit(request(str(index), PROMPTS[index], quality="standard", return_routing=True))
  tokens: dict[str, list[int]] = {}
  replayed = changed = 0
  for piece in core.run():
    tokens.setdefault(piece.request_id, []).extend(piece.token_ids)
    if piece.finished is None:
      continue
    prompt, drawn = PROMPTS[int(piece.request_id)], tokens[piece.request_id]
    routing = np.stack([np.asarray(experts) for experts in piece.finished.routing])[None]
    assert routing.shape == (1, len(prompt) + NEW - 1, 1, 2)
    ids = np.array([prompt + drawn[:-1]], np.int32)
    logits = forward(small_params(), ids, routing=routing)
    assert np.argmax(logits[0, len(prompt) - 1 :], axis=-1).tolist() == drawn
    replayed += 1
    changed += drawn != greedy_alone(tuple(prompt))
  assert replayed == 4
  assert changed


@pytest.mark.usefixtures("own_errors")
def test_a_routing_of_other_positions_is_refused():
  with pytest.raises(ValueError, match=r"routing.shape is \(1, 1, 1, 2\): expected \(1, 3, 1\)"):
    forward(small_params(), np.ones((1, 3), np.int32), routing=np.zeros((1, 1, 1, 2), np.int32))


def test_threads_submit_at_once_and_each_gets_its_own():
  with Engine(small_params(), SIZES) as engine:
    found: dict[int, tuple[int, ...]] = {}

    def ask(index: int) -> None:
      found[index] = engine.submit(request(str(index), PROMPTS[index])).wait()[1]

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(PROMPTS))]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    assert found == {index: tuple(greedy_alone(tuple(prompt))) for index, prompt in enumerate(PROMPTS)}
    assert engine.drain()
    with pytest.raises(Overloaded, match="drains"):
      engine.submit(request("late", PROMPTS[0]))
  with pytest.raises(EngineDead, match="closed"):
    engine.stats()


def test_a_pause_lets_running_requests_end_and_starts_no_other():
  with Engine(small_params(), SIZES) as engine:
    engine.pause()
    answer = engine.submit(request("a", PROMPTS[0]))
    assert engine.stats().waiting == 1
    engine.resume()
    assert answer.wait()[1] == tuple(greedy_alone(tuple(PROMPTS[0])))


def test_streams_of_an_event_loop_end_when_they_are_left():
  async def serve(engine: Engine) -> list[int]:
    served = AsyncEngine(engine)

    async def whole(index: int) -> list[int]:
      stream = served.stream(request(str(index), PROMPTS[index]))
      return [token async for piece in stream for token in piece.token_ids]

    async def left() -> None:
      stream = served.stream(request("left", PROMPTS[1], max_new_tokens=40))
      async for _ in stream:
        break
      await stream.aclose()

    first, second, _ = await asyncio.gather(whole(0), whole(3), left())
    assert second == greedy_alone(tuple(PROMPTS[3]))
    with pytest.raises(ValueError, match="must fit the context"):
      await anext(served.stream(request("long", PROMPTS[0], max_new_tokens=1000)))
    assert await served.drain()
    return first

  with Engine(small_params(), SIZES) as engine:
    assert asyncio.run(serve(engine)) == greedy_alone(tuple(PROMPTS[0]))
    assert engine.stats().held_blocks == 0


def test_a_caller_that_leaves_before_its_turn_changes_nothing():
  async def serve(engine: Engine) -> None:
    served, busy = AsyncEngine(engine), threading.Event()
    engine.start(busy.wait)
    submitted = asyncio.create_task(served.submit([request("left", PROMPTS[0])]))
    await asyncio.sleep(0)
    submitted.cancel()
    with pytest.raises(asyncio.CancelledError):
      await submitted
    busy.set()

  with Engine(small_params(), SIZES) as engine:
    asyncio.run(serve(engine))
    assert engine.submit(request("next", PROMPTS[0])).wait()[1] == tuple(greedy_alone(tuple(PROMPTS[0])))
    assert engine.stats().held_blocks == 0


def test_a_caller_that_leaves_does_not_end_another_request_of_the_same_name():
  async def serve(engine: Engine) -> list[int]:
    served, busy = AsyncEngine(engine), threading.Event()
    first = await served.submit([request("same", PROMPTS[0])])
    engine.start(busy.wait)
    again = asyncio.create_task(served.submit([request("same", PROMPTS[3])]))
    await asyncio.sleep(0)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
      await again
    busy.set()
    tokens: list[int] = []
    while not first.ended:
      tokens += [token for piece in await first.take() for token in piece.token_ids]
    return tokens

  with Engine(small_params(), SIZES) as engine:
    assert asyncio.run(serve(engine)) == greedy_alone(tuple(PROMPTS[0]))


def test_requests_are_submitted_together_or_not_at_all():
  async def serve(engine: Engine) -> None:
    both = [request("fits", PROMPTS[0]), request("long", PROMPTS[0], max_new_tokens=1000)]
    with pytest.raises(ValueError, match="must fit the context"):
      await AsyncEngine(engine).submit(both)

  with Engine(small_params(), SIZES) as engine:
    asyncio.run(serve(engine))
    assert engine.stats().waiting == engine.stats().running == 0


def test_deterministic_mode_repeats_bit_for_bit_whatever_else_runs():
  settings = EngineSettings(slots=4, context=96, mixed=(64,), deterministic=True, run_ahead=1)
  warm = Sampling(temperature=1.0, seed=3)

  def ask(name: str) -> Request:
    return request(name, PROMPTS[3], sampling=warm, deterministic=True, logprobs=5)

  def result(core: EngineCore) -> list:
    found = [piece for piece in core.run() if piece.request_id == "a"]
    return [(piece.token_ids, piece.logprobs, piece.top_logprobs) for piece in found]

  alone = EngineCore(small_params(), settings)
  alone.submit(ask("a"))
  crowd = EngineCore(small_params(), settings)
  crowd.submit(request("before", PROMPTS[1]))
  for _ in range(3):
    crowd.step()
  crowd.submit(ask("a"))
  for index in (0, 4, 6):
    crowd.submit(request(str(index), PROMPTS[index]))
  assert result(alone) == result(crowd)
