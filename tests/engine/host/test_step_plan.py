"""A plan is complete, fits its program, and cannot be changed."""

import dataclasses

import pytest

from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sequence import new_sequence
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, Program, Programs, StepPlan

SETTINGS = new_sequence(Request(id="a", prompt=(1,)), 0, (0, 0)).settings
ROW = DecodeRow(0, 3, 2, (0,), SETTINGS)
CHUNK = Chunk(1, 0, (5, 6, 7), True, 0, (1,), SETTINGS)


def test_a_plan_counts_its_tokens():
  plan = StepPlan(number=0, program=Program("mixed", 4), rows=(ROW,), chunks=(CHUNK,))
  assert plan.tokens == 4
  assert CHUNK.end == 3
  with pytest.raises(dataclasses.FrozenInstanceError):
    plan.limit = 3  # pyright: ignore


def test_a_plan_larger_than_its_program_is_refused():
  with pytest.raises(ValueError, match="expected room for 4 tokens"):
    StepPlan(number=0, program=Program("mixed", 3), rows=(ROW,), chunks=(CHUNK,))


def test_an_empty_plan_is_refused():
  with pytest.raises(ValueError, match="expected at least one row or chunk"):
    StepPlan(number=0, program=Program("decode", 3), rows=(), chunks=())


@pytest.mark.parametrize("sizes", [(), (2, 1), (1, 1), (0, 1)])
def test_sizes_of_programs_rise(sizes: tuple[int, ...]):
  with pytest.raises(ValueError, match=r"Programs\.decode is"):
    Programs(decode=sizes)


@pytest.mark.parametrize(
  ("quality", "adaptive", "exact", "weight"),
  [("exact", True, True, 1.0), ("high", True, False, 4.0), ("standard", True, False, 1.0),
   ("economy", True, False, 0.25), ("economy", False, True, 0.25)],
)  # fmt: skip
def test_rows_are_exact_by_request_or_without_a_policy(quality, adaptive: bool, exact: bool, weight: float):
  settings = new_sequence(Request(id="a", prompt=(1,), quality=quality), 0, (0, 0), adaptive=adaptive).settings
  assert (settings.exact, settings.weight) == (exact, weight)


def test_the_models_own_stop_tokens_can_be_ignored():
  def stops(ignore: bool) -> frozenset[int]:
    request = Request(id="a", prompt=(1,), stop_token_ids=frozenset({7}), ignore_eos=ignore)
    return new_sequence(request, 0, (0, 0), frozenset({2})).settings.stop_ids

  assert stops(False) == {2, 7}
  assert stops(True) == {7}
