"""Other weights in a running engine, and what becomes of the requests that run."""

import asyncio
from typing import Any

import jax.numpy as jnp
import pytest

from lynx_jax.engine.async_engine import AsyncEngine
from lynx_jax.engine.core import EngineCore
from lynx_jax.engine.engine import Engine
from lynx_jax.engine.host.request import Finished, Piece
from tests.engine.test_engine import PROMPTS, SIZES, SMALL_POOL, answers, request
from tests.small_models import greedy_alone, small_params


def gathered(pieces: list[Piece]) -> tuple[dict[str, list[int]], dict[str, Finished]]:
  """Tokens and ends of requests."""
  tokens: dict[str, list[int]] = {}
  ends: dict[str, Finished] = {}
  for piece in pieces:
    tokens.setdefault(piece.request_id, []).extend(piece.token_ids)
    if piece.finished is not None:
      ends[piece.request_id] = piece.finished
  return tokens, ends


def begun(core: EngineCore) -> list[Piece]:
  """Submits more requests than run at once; steps until the first have drawn some tokens."""
  for index, prompt in enumerate(PROMPTS):
    core.submit(request(str(index), prompt))
  return [piece for _ in range(6) for piece in core.step()]


def test_other_weights_serve_from_the_next_step_on_and_nothing_is_compiled(monkeypatch):
  core = EngineCore(small_params(), SIZES)
  prompt = tuple(PROMPTS[3])
  assert answers(core, [request("old", PROMPTS[3])])["old"] == greedy_alone(prompt)
  monkeypatch.setattr(core._executor.programs, "_build", None)
  core.update_weights(small_params(seed=1))
  core.submit(request("new", PROMPTS[3]))
  pieces = core.run()
  assert [token for piece in pieces for token in piece.token_ids] == greedy_alone(prompt, seed=1)
  assert pieces[-1].finished is not None
  assert (pieces[-1].finished.weights, pieces[-1].finished.cached_tokens) == ((1,), 0)
  with pytest.raises(ValueError, match=r"array 0 is bfloat16.*: expected float32"):
    core.update_weights(small_params(dtype=jnp.bfloat16))


def test_what_runs_ends_with_the_old_weights_and_what_waits_has_the_new_ones():
  core = EngineCore(small_params(), SIZES)
  pieces = begun(core)
  before = set(gathered(pieces)[0])
  pieces += core.update_weights(small_params(seed=1), mode="wait")
  _, ended = gathered(pieces)
  assert before <= set(ended)
  assert len(ended) < len(PROMPTS)
  pieces += core.run()
  tokens, ends = gathered(pieces)
  for name, prompt in enumerate(PROMPTS):
    version = 0 if str(name) in ended else 1
    assert ends[str(name)].weights == (version,)
    assert tokens[str(name)] == greedy_alone(tuple(prompt), seed=version)


def test_what_runs_is_aborted_and_what_waits_has_the_new_weights():
  core = EngineCore(small_params(), SIZES)
  pieces = begun(core)
  assert not gathered(pieces)[1]
  pieces += core.update_weights(small_params(seed=1), mode="abort")
  aborted = gathered(pieces)[1]
  assert {end.reason for end in aborted.values()} == {"abort"}
  assert 0 < len(aborted) <= 4
  tokens, ends = gathered(core.run())
  assert set(ends) == {str(index) for index in range(len(PROMPTS))} - set(aborted)
  assert {end.weights for end in ends.values()} == {(1,)}
  assert tokens == {name: greedy_alone(tuple(PROMPTS[int(name)]), seed=1) for name in ends}
  assert core.stats().held_blocks == 0


@pytest.mark.parametrize("mode", ["wait", "abort"])
def test_requests_that_lost_their_blocks_count_as_running(mode):
  core = EngineCore(small_params(), SMALL_POOL)
  # Each grows from one block to three, and there are six.
  for index in range(4):
    core.submit(request(str(index), PROMPTS[2], max_new_tokens=70))
  pieces: list[Piece] = []
  while not core.stats().preemptions:
    pieces += core.step()
  before = set(gathered(pieces)[0])
  pieces += core.update_weights(small_params(seed=1), mode=mode)
  _, ends = gathered(pieces)
  assert set(ends) == before
  assert any(end.preemptions for end in ends.values())
  assert {end.weights for end in ends.values()} == {(0,)}
  _, later = gathered(core.run())
  assert {end.weights for end in later.values()} <= {(1,)}
  assert len(ends) + len(later) == 4


@pytest.mark.usefixtures("own_errors")
def test_weights_that_do_not_fit_end_nothing():
  core = EngineCore(small_params(), SIZES)
  pieces = begun(core)
  for mode in ("wait", "abort"):
    with pytest.raises(ValueError, match="array 0 is bfloat16"):
      core.update_weights(small_params(dtype=jnp.bfloat16), mode=mode)
  unknown: Any = "later"
  with pytest.raises(ValueError, match="mode is 'later': expected one of keep, wait, abort"):
    core.update_weights(small_params(seed=1), mode=unknown)
  tokens, ends = gathered(pieces + core.run())
  assert {(end.reason, end.weights) for end in ends.values()} == {("length", (0,))}
  assert tokens == {str(index): greedy_alone(tuple(prompt)) for index, prompt in enumerate(PROMPTS)}


def test_an_engine_goes_on_by_itself_when_weights_have_waited():
  with Engine(small_params(), SIZES) as engine:
    asked = engine.submit_all([request(str(index), prompt) for index, prompt in enumerate(PROMPTS)])
    first = next(iter(asked[0]))
    assert engine.update_weights(small_params(seed=1), mode="wait") == 1
    found = [answer.wait() for answer in asked]
    versions = [finished.weights for _, _, finished in found]
    assert versions[0] == (0,)
    assert set(versions) <= {(0,), (1,)}
    for index, (_, tokens, _) in enumerate(found):
      expected = greedy_alone(tuple(PROMPTS[index]), seed=versions[index][0])
      assert [*(() if index else first.token_ids), *tokens] == expected


def test_a_pause_outlives_an_update_and_an_event_loop_can_ask_for_one():
  with Engine(small_params(), SIZES) as engine:
    engine.pause()
    answer = engine.submit(request("a", PROMPTS[0]))

    async def update() -> int:
      return await AsyncEngine(engine).update_weights(small_params(seed=1), mode="wait")

    assert asyncio.run(update()) == 1
    assert engine.stats().waiting == 1
    engine.resume()
    assert answer.wait()[1] == tuple(greedy_alone(tuple(PROMPTS[0]), seed=1))
