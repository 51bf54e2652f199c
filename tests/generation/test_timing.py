"""Results say how long they took, by a clock that the test winds."""

import itertools

import pytest

import lynx_jax
from lynx_jax.engine.host.request import Finished, Piece
from lynx_jax.engine.request_times import RequestTimes
from lynx_jax.generation import Timing
from tests.small_models import small_params


def test_times_are_from_submission_to_first_token_and_end():
  times = RequestTimes(itertools.count(step=10.0).__next__)
  times.begin("a")  # 0 s
  times.begin("b")  # 10 s
  assert times.stamp([]) == []
  assert times.stamp([Piece("a", (5,)), Piece("b")])[0].finished is None  # 20 s
  first, second = times.stamp([Piece("a", (6,), finished=Finished(reason="stop")), Piece("b", (1,))])  # 30 s
  assert first.finished is not None
  assert (first.finished.first_token_seconds, first.finished.seconds) == (20.0, 30.0)
  assert second.finished is None
  (third,) = times.stamp([Piece("b", finished=Finished(reason="abort"))])  # 40 s
  assert third.finished is not None
  assert (third.finished.first_token_seconds, third.finished.seconds) == (20.0, 30.0)
  # A name may be used again, and one that draws nothing has no first token.
  times.begin("a")  # 50 s
  (last,) = times.stamp([Piece("a", finished=Finished(reason="abort"))])  # 60 s
  assert last.finished is not None
  assert (last.finished.first_token_seconds, last.finished.seconds) == (None, 10.0)
  assert not times._begun
  assert not times._first


def test_tokens_a_second_are_those_after_the_first():
  assert Timing(first_token_seconds=1.0, seconds=3.0, tokens=5).tokens_per_second == 2.0
  for timing in ((None, 3.0, 0), (1.0, 1.0, 1), (3.0, 3.0, 2)):
    first, seconds, tokens = timing
    assert Timing(first_token_seconds=first, seconds=seconds, tokens=tokens).tokens_per_second is None


def test_completions_and_last_pieces_are_timed():
  done = lynx_jax.generate(small_params(), [[1, 2], [3]], max_new_tokens=4)
  for one in done:
    assert one.timing is not None
    assert one.timing.tokens == len(one.token_ids)
    assert one.timing.first_token_seconds is not None
    assert 0 < one.timing.first_token_seconds <= one.timing.seconds
  pieces = list(lynx_jax.stream(small_params(), [[1, 2]], max_new_tokens=4))
  assert [piece.timing is not None for piece in pieces] == [piece.finish_reason is not None for piece in pieces]
  # Other times are no other results.
  assert lynx_jax.generate(small_params(), [[1, 2], [3]], max_new_tokens=4) == done


def test_a_prompt_that_never_ran_has_no_timing():
  (failed,) = lynx_jax.generate(small_params(), [[]], max_new_tokens=4, errors="return")
  assert (failed.finish_reason, failed.timing) == ("error", None)
  with pytest.raises(ValueError, match="prompt"):
    lynx_jax.generate(small_params(), [[]], max_new_tokens=4)
