"""`agenerate` and `astream`: the same results as without an event loop, and requests that end with their caller."""

import asyncio
import contextlib
import threading
from typing import Any

import numpy as np
import pytest

import lynx_jax
from lynx_jax import AsyncEngine, Engine, EngineSettings, Sampling
from tests.small_models import VOCAB, greedy_alone, random_prompts, small_params

PROMPTS = random_prompts((3, 50, 7, 33))
SIZES = EngineSettings(slots=4, context=96, mixed=(64,))


@pytest.fixture(autouse=True)
def _no_engine_is_left():
  """Engines that were made for a call end with it; those of other tests, such as a server's, may live on."""
  before = engine_threads()
  yield
  assert engine_threads() <= before


def engine_threads() -> set[threading.Thread]:
  return {thread for thread in threading.enumerate() if thread.name == "lynx-engine"}


def test_the_same_completions_come_without_stopping_the_loop():
  options = {
    "max_new_tokens": 8,
    "sampling": Sampling(temperature=1.0, seed=4),
    "n": 2,
    "stats": True,
    "policy": "auto",
  }

  async def both() -> tuple[list, list]:
    return await lynx_jax.agenerate(small_params(), PROMPTS, **options), await lynx_jax.agenerate(
      small_params(), PROMPTS[::-1], max_new_tokens=8
    )

  found, own = asyncio.run(both())
  assert found == lynx_jax.generate(small_params(), PROMPTS, **options)
  assert [list(one.token_ids) for one in own] == [greedy_alone(tuple(prompt), 8) for prompt in PROMPTS[::-1]]


def test_pieces_of_a_stream_join_to_the_completions():
  async def joined() -> dict[int, list[int]]:
    tokens: dict[int, list[int]] = {}
    async for piece in lynx_jax.astream(small_params(), PROMPTS, max_new_tokens=8):
      tokens.setdefault(piece.row, []).extend(piece.token_ids)
    return tokens

  assert asyncio.run(joined()) == {row: greedy_alone(tuple(prompt), 8) for row, prompt in enumerate(PROMPTS)}


@pytest.mark.usefixtures("own_errors")
def test_errors_are_raised_or_returned(capsys):
  prompts: Any = [PROMPTS[0], [], [VOCAB]]
  done = asyncio.run(lynx_jax.agenerate(small_params(), prompts, max_new_tokens=8, errors="return", progress=True))
  assert [one.finish_reason for one in done] == ["length", "error", "error"]
  assert list(done[0].token_ids) == greedy_alone(tuple(PROMPTS[0]), 8)
  assert "3/3" in capsys.readouterr().err
  with pytest.raises(ValueError, match="prompt 1 is empty"):
    asyncio.run(lynx_jax.agenerate(small_params(), prompts))
  (failed,) = asyncio.run(lynx_jax.agenerate(small_params(), [[]], errors="return"))
  assert isinstance(failed.error, ValueError)


def test_callers_share_an_engine_and_one_that_is_cancelled_ends_its_own_requests():
  async def serve(engine: Engine) -> list:
    served = AsyncEngine(engine)
    begun = asyncio.Event()

    async def left() -> None:
      # More than the engine takes at a time: some are not submitted yet.
      async with contextlib.aclosing(lynx_jax.astream(served, PROMPTS * 30, max_new_tokens=40)) as pieces:
        await anext(pieces)
        begun.set()
        await asyncio.Event().wait()

    leaving = asyncio.create_task(left())
    staying = [asyncio.create_task(lynx_jax.agenerate(served, PROMPTS, max_new_tokens=8)) for _ in range(2)]
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
      await leaving
    done = await asyncio.gather(*staying)
    # Those that were left are aborted at the next boundary between steps, which has passed.
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.held_blocks) == (0, 0, 0)
    return done

  with Engine(small_params(), SIZES) as engine:
    for found in asyncio.run(serve(engine)):
      assert [list(one.token_ids) for one in found] == [greedy_alone(tuple(prompt), 8) for prompt in PROMPTS]


def test_a_cancelled_call_closes_the_engine_that_was_made_for_it():
  async def leave() -> None:
    begun = asyncio.Event()

    async def left() -> None:
      async with contextlib.aclosing(lynx_jax.astream(small_params(), PROMPTS, max_new_tokens=40)) as pieces:
        await anext(pieces)
        begun.set()
        await asyncio.Event().wait()

    leaving = asyncio.create_task(left())
    await begun.wait()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
      await leaving
    # Cancelled while its engine is being made.
    early = asyncio.create_task(lynx_jax.agenerate(small_params(), PROMPTS))
    await asyncio.sleep(0.01)
    early.cancel()
    with pytest.raises(asyncio.CancelledError):
      await early

  asyncio.run(leave())


def test_an_engine_is_given_a_few_requests_at_a_time():
  kinds = random_prompts(np.arange(8) % 4 + 1)
  prompts = [kinds[index] for index in np.random.default_rng(0).integers(8, size=200)]
  most = 0

  async def ask(engine: Engine) -> list:
    nonlocal most
    done = []
    async for piece in lynx_jax.astream(AsyncEngine(engine), prompts, max_new_tokens=2):
      stats = engine.stats()
      most = max(most, stats.waiting + stats.running)
      done.append(piece)
    return done

  with Engine(small_params(), SIZES) as engine:
    pieces = asyncio.run(ask(engine))
  tokens: dict[int, list[int]] = {row: [] for row in range(200)}
  for piece in pieces:
    tokens[piece.row].extend(piece.token_ids)
  assert tokens == {row: greedy_alone(tuple(prompt), 2) for row, prompt in enumerate(prompts)}
  assert 4 < most <= 4 + 64


@pytest.mark.usefixtures("own_errors")
def test_what_belongs_to_the_engine_is_not_given_again():
  async def ask(engine: Engine, prompts: Any = PROMPTS, **options) -> list:
    return await lynx_jax.agenerate(AsyncEngine(engine), prompts, **options)

  with Engine(small_params(), SIZES) as engine:
    wrong: Any = [
      ({"policy": "auto"}, "policy is 'auto'"),
      ({"stats": True}, "stats is True"),
      ({"batch": 2}, "batch is 2"),
    ]
    for options, message in wrong:
      with pytest.raises(ValueError, match=rf"{message}: expected \w+ with an engine"):
        asyncio.run(ask(engine, **options))
    with pytest.raises(ValueError, match="prompt 1 has 96 tokens, which leaves no room in the engine's context of 96"):
      asyncio.run(ask(engine, [[1], [1] * 96]))
    done = asyncio.run(ask(engine, [[1] * 90, [1] * 96], errors="return"))
    assert [len(one.token_ids) for one in done] == [6, 0]
  with pytest.raises(TypeError, match="params is 3: expected a loaded model"):
    asyncio.run(lynx_jax.agenerate(3, PROMPTS))  # type: ignore[arg-type]


def test_what_the_owner_of_an_engine_ends_is_marked():
  async def ask(engine: Engine) -> list:
    served = AsyncEngine(engine)
    asked = asyncio.create_task(lynx_jax.agenerate(served, PROMPTS[:1]))
    while not engine.stats().waiting:
      await asyncio.sleep(0.001)
    assert not await served.drain(timeout=0)
    return await asked

  with Engine(small_params(), SIZES) as engine:
    engine.pause()
    (done,) = asyncio.run(ask(engine))
  assert (done.finish_reason, done.token_ids, done.error) == ("abort", (), None)
