"""What a caller of the scheduler sees: refusals, the order of service, shared prompts, ends."""

# pyright: reportOptionalMemberAccess=false

import dataclasses
import random

import pytest

from lynx_jax.engine.host.admission import Admission
from lynx_jax.engine.host.detokenize import OutputText
from lynx_jax.engine.host.order import MOST_OVERTAKEN, PLACES, PrefixFirst
from lynx_jax.engine.host.request import Overloaded, Request
from lynx_jax.engine.host.step_plan import Program, Programs, StepResult
from tests.engine.host.drive import drive, small_limits
from tests.engine.host.engine_loop import EngineLoop

NONE_STOP = {"ignore_eos": True, "quality": "exact"}


class Broken:
  """A tokenizer that decodes nothing."""

  open_ids = frozenset()

  def decode(self, ids) -> str:
    """Fails."""
    raise OverflowError(f"no text for {ids}")


def request(name: str, length: int = 5, new: int = 4, **fields) -> Request:
  """A request with a prompt of its own."""
  tokens = random.Random(name)
  return Request(id=name, prompt=tuple(tokens.randrange(16) for _ in range(length)), max_new_tokens=new, **fields)


@pytest.mark.parametrize(
  ("changes", "asked", "message"),
  [
    ({}, {"length": 30, "new": 11}, "prompt length of request 'a' is 30: expected at most 29 tokens"),
    ({"blocks": 4}, {"length": 10, "new": 8}, "cache of request 'a' is 5: expected at most 4 blocks"),
    ({"vocab": 2}, {}, "expected a token id below 2"),
    ({}, {"quality": "exact", "deterministic": True}, "deterministic of request 'a' is True: expected False"),
  ],
)
def test_a_request_that_can_never_run_is_refused_at_once(changes: dict, asked: dict, message: str):
  loop = EngineLoop(small_limits(**changes))
  with pytest.raises(ValueError, match=message.replace("(", r"\(")):
    loop.submit(request("a", **asked))
  loop.check_empty()


def test_a_name_is_free_again_once_its_request_has_ended():
  loop = EngineLoop(small_limits())
  loop.submit(request("a"))
  with pytest.raises(ValueError, match=r"Request\.id is 'a': expected a new name"):
    loop.submit(request("a"))
  loop.drain()
  loop.submit(request("a"))
  loop.drain()


def test_a_full_queue_and_a_draining_engine_refuse_what_would_run_later():
  loop = EngineLoop(small_limits(most_waiting=2, most_waiting_tokens=12))
  loop.submit(request("long", length=20, new=1))
  with pytest.raises(Overloaded, match="more than 12 tokens wait"):
    loop.submit(request("a"))
  loop.drain()
  loop.submit(request("a"))
  loop.submit(request("b"))
  with pytest.raises(Overloaded, match="finds 2 requests waiting"):
    loop.submit(request("c", length=1))
  loop.scheduler.draining = True
  with pytest.raises(Overloaded, match="while the engine drains"):
    loop.submit(request("d"))
  loop.drain()
  assert set(loop.ended) == {"long", "a", "b"}


def test_nobody_enters_while_paused():
  loop = EngineLoop(small_limits())
  loop.submit(request("a"))
  assert loop.turn(0)
  loop.scheduler.paused = True
  loop.submit(request("b"))
  while loop.turn(0):
    pass
  assert set(loop.ended) == {"a"}
  loop.scheduler.paused = False
  loop.drain()
  assert set(loop.ended) == {"a", "b"}


def test_those_that_lost_their_blocks_return_while_paused():
  loop = EngineLoop(small_limits())
  for name in "ab":
    loop.submit(request(name))
  assert loop.turn(0)
  assert loop.scheduler.started == ["a", "b"]
  loop.fail()
  loop.scheduler.paused = True
  # More than are looked through for the next one, and ahead of those that return.
  for index in range(70):
    loop.submit(dataclasses.replace(request(f"urgent {index}"), priority=8))
  assert loop.scheduler.started == ["a", "b"]
  while loop.turn(0):
    pass
  assert set(loop.ended) == {"a", "b"}
  assert loop.scheduler.started == []
  loop.scheduler.paused = False
  loop.drain()
  assert len(loop.ended) == 72


def test_samples_of_one_prompt_compute_it_once():
  loop = EngineLoop(small_limits(blocks=40))
  for sample in range(4):
    loop.submit(Request(id=f"{sample}", prompt=tuple(range(14)), max_new_tokens=6, ignore_eos=True))
  loop.drain()
  # Three blocks of four are shared; what is left is computed by each: it draws the token.
  assert [loop.ended[f"{sample}"].finished.cached_tokens for sample in range(4)] == [0, 12, 12, 12]


def test_prompts_that_are_rotated_otherwise_share_no_blocks():
  loop = EngineLoop(small_limits(blocks=40, short_prompt=13))
  for tokens in (14, 13, 15, 12):
    loop.submit(Request(id=f"{tokens}", prompt=tuple(range(tokens)), max_new_tokens=2, ignore_eos=True))
    loop.drain()
  # Blocks of four: 15 tokens find those of 14, and 12 find those of 13.
  assert [loop.ended[name].finished.cached_tokens for name in ("14", "13", "15", "12")] == [0, 0, 12, 8]


def test_scores_of_a_prompt_without_new_tokens():
  loop = EngineLoop(small_limits())
  for name in "ab":
    loop.submit(Request(id=name, prompt=tuple(range(15)), max_new_tokens=0, prompt_logprobs=0))
    loop.drain()
    finished = loop.ended[name].finished
    assert (finished.reason, finished.output_tokens, finished.cached_tokens) == ("length", 0, 0)
    assert len(loop.ended[name].prompt_logprobs) == 14


def test_short_prompts_pass_a_long_one_and_no_two_are_cut():
  loop = EngineLoop(small_limits(blocks=60, programs=Programs(decode=(4,), mixed=(8,))))
  loop.submit(request("long", length=32, new=1, **NONE_STOP))
  loop.submit(request("longer", length=32, new=1, **NONE_STOP))
  loop.submit(request("short", length=4, new=1, **NONE_STOP))
  loop.plan()
  loop.plan()
  first, second = (plan for plan, _ in loop.scheduler._in_flight)
  assert [(len(chunk.tokens), chunk.settings.request_id) for chunk in first.chunks] == [(8, "long")]
  assert [(len(chunk.tokens), chunk.settings.request_id) for chunk in second.chunks] == [(4, "short"), (4, "long")]
  loop.drain()


def test_rows_and_chunks_share_a_step_and_the_chunk_fills_it():
  loop = EngineLoop(small_limits(blocks=60))
  loop.submit(request("a", length=3, new=8, **NONE_STOP))
  loop.turn(0)
  loop.submit(request("b", length=20, new=2, **NONE_STOP))
  loop.plan()
  plan, _ = loop.scheduler._in_flight[-1]
  assert plan.program == Program("mixed", 16)
  assert (len(plan.rows), [len(chunk.tokens) for chunk in plan.chunks]) == (1, [15])
  loop.drain()


def test_the_oldest_is_never_preempted_and_the_preempted_keep_their_place():
  loop = EngineLoop(small_limits(blocks=10), admission=Admission(lookahead=0))
  for name in "abcd":
    loop.submit(request(name, length=8, new=24, **NONE_STOP))
  loop.drain()
  preempted = [loop.ended[name].finished.preemptions for name in "abcd"]
  assert preempted[0] == 0
  assert sum(preempted) > 0
  assert list(loop.ended) == ["a", "b", "c", "d"]


def test_room_for_all_tokens_preempts_nobody():
  loop = EngineLoop(small_limits(blocks=10), admission=Admission(lookahead=None))
  drive(loop, 3, 200)
  assert loop.scheduler.stats().preemptions == 0


def test_priority_overtakes_only_so_many():
  loop = EngineLoop(small_limits(slots=1, policy=""))
  loop.submit(request("running", new=1))
  loop.turn(0)
  loop.submit(request("patient", new=1))
  submitted = 0
  while "patient" not in loop.ended:
    for _ in range(2):
      loop.submit(request(f"urgent {submitted}", new=1, priority=1))
      submitted += 1
    loop.turn(0)
  before = list(loop.ended).index("patient") - 1
  # One level of priority is worth so many places, and no more.
  assert 0 < before <= PLACES
  loop.drain()


def test_a_cached_prefix_goes_first_but_not_for_ever():
  loop = EngineLoop(small_limits(slots=1, policy=""), order=PrefixFirst())
  shared = tuple(range(12))
  loop.submit(Request(id="first", prompt=(*shared, 1), max_new_tokens=1))
  loop.turn(0)
  loop.submit(request("other", length=9, new=1))
  for index in range(2 * MOST_OVERTAKEN):
    if index % 2:
      loop.turn(0)
    loop.submit(Request(id=f"{index}", prompt=(*shared, index % 16, 3), max_new_tokens=1))
  loop.drain()
  before = list(loop.ended).index("other")
  assert 2 < before <= MOST_OVERTAKEN + 1


def test_stop_strings_bound_the_steps_in_flight():
  def ahead(policy: str, **fields) -> int:
    loop = EngineLoop(small_limits(policy=policy))
    loop.submit(request("a", **fields))
    loop.turn(0)
    return loop.scheduler.run_ahead(3)

  assert ahead("auto") == 3
  assert ahead("auto", stop_strings=("x",)) == 0
  assert ahead("", stop_strings=("x",)) == 1


def test_a_tokenizer_that_fails_ends_its_own_request_only():
  loop = EngineLoop(small_limits(policy=""))
  for name in "ab":
    loop.submit(request(name, **NONE_STOP))
  loop.scheduler._by_id["a"].text = OutputText(Broken())
  while loop.plan():
    for piece in loop.scheduler.commit(loop.results.popleft()):
      if piece.request_id == "a":
        assert piece.finished is not None
        assert (piece.finished.reason, piece.finished.fault) == ("error", "tokenizer")
        assert "cannot decode" in piece.finished.message
        loop.pieces.pop("a")
      else:
        loop._receive(piece)
  assert loop.ended["b"].finished.reason == "length"
  loop.check_empty()


def test_damaged_logits_end_the_request_and_hide_its_blocks():
  loop = EngineLoop(small_limits(policy=""))
  loop.submit(Request(id="a", prompt=tuple(range(13)), max_new_tokens=3))
  loop.plan()
  (piece,) = loop.scheduler.commit(StepResult(token=[0] * 4, finite=[False] * 4, alive=[False] * 4))
  assert piece.finished is not None
  assert (piece.finished.reason, piece.finished.fault) == ("error", "logits")
  assert "not finite at position 13" in piece.finished.message
  stats = loop.scheduler.stats()
  assert (stats.held_blocks, stats.cached_blocks) == (0, 0)


# Types are checked in the tests above; here that would be most of the time.
@pytest.mark.usefixtures("own_errors")
def test_ten_thousand_requests_leave_nothing_behind():
  loop = EngineLoop(small_limits())
  drive(loop, 1, 10_000, aborts=0.2, names=30)
  loop.check_empty()
  ends = [piece.finished.reason for piece in loop.ended.values()]
  assert len(loop.whole) == 10_000
  assert "abort" in ends


def test_deterministic_requests_are_never_preempted_and_start_at_boundaries():
  loop = EngineLoop(small_limits(canonical_chunk=8, blocks=24))
  for index in range(12):
    loop.submit(request(f"{index}", length=19, new=10, quality="exact", deterministic=True))
  loop.drain()
  assert loop.scheduler.stats().preemptions == 0
