"""Any sequence of calls, against a shadow device: all invariants hold, and every output is that of the row alone."""

import os

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
  RuleBasedStateMachine,
  initialize,
  invariant,
  precondition,
  rule,
  run_state_machine_as_test,
)

from lynx_jax.engine.host.admission import Admission
from lynx_jax.engine.host.chunking import Chunking
from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.order import FirstCome, PrefixFirst
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.host.step_plan import Programs
from tests.engine.host.engine_loop import EngineLoop
from tests.engine.host.rules import HashRule
from tests.engine.host.shadow import VOCAB

CONTEXT = 40
PROGRAMS = (
  Programs(decode=(1, 2, 4), mixed=(8, 16)),
  Programs(decode=(4,), mixed=(8,)),
  Programs(decode=(2, 4), mixed=(32,)),
)
TOKENS = st.integers(0, 15)


@st.composite
def prompts(draw) -> tuple[int, ...]:
  """Prompts that often begin as others do."""
  start = draw(st.sampled_from(((1, 2, 3, 4) * 6, (1, 2, 3, 4, 5, 6, 7, 8) * 3, (9,) * 24)))
  return (*start[: draw(st.integers(0, 24))], *draw(st.lists(TOKENS, min_size=1, max_size=5)))


REQUESTS = st.fixed_dictionaries(
  {
    "prompt": prompts(),
    "max_new_tokens": st.integers(0, 11),
    "sampling": st.builds(Sampling, seed=st.integers(0, 2)),
    "stop_token_ids": st.frozensets(TOKENS, max_size=1),
    "stop_strings": st.lists(st.sampled_from(("ab", "bc", "abca", "é", "dd")), max_size=2).map(tuple),
    "constraint": st.sampled_from((None, None, *(HashRule(seed, VOCAB) for seed in range(6)))),
    "ignore_eos": st.booleans(),
    "quality": st.sampled_from(("exact", "standard")),
    "priority": st.integers(-1, 1),
    "cache_salt": st.sampled_from(("", "", "other")),
    "logprobs": st.sampled_from((None, 0)),
    "prompt_logprobs": st.sampled_from((None, None, None, 0)),
    "return_routing": st.sampled_from((False, False, False, True)),
  }
).filter(lambda fields: not (fields["ignore_eos"] and fields["constraint"]))


class Machine(RuleBasedStateMachine):
  """Calls of an engine, in any order, with at most three steps in flight when another is planned."""

  turn_number = 0

  @initialize(
    block_size=st.sampled_from((1, 2, 4)),
    spare=st.integers(0, 24),
    slots=st.integers(1, 4),
    programs=st.sampled_from(PROGRAMS),
    policy=st.sampled_from(("", "auto")),
    canonical=st.booleans(),
    order=st.sampled_from((FirstCome(), PrefixFirst())),
    lookahead=st.sampled_from((0, 4, None)),
    least_fill=st.sampled_from((0.0, 0.5)),
  )
  def start(self, block_size, spare, slots, programs, policy, canonical, order, lookahead, least_fill):
    limits = Limits(
      blocks=CONTEXT // block_size + spare // block_size,
      slots=slots,
      context=CONTEXT,
      vocab=VOCAB,
      block_size=block_size,
      programs=programs,
      eos_ids=frozenset({0}),
      policy=policy,
      canonical_chunk=programs.mixed[0] if canonical else None,
    )
    self.loop = EngineLoop(
      limits, order=order, admission=Admission(lookahead=lookahead), chunking=Chunking(least_fill=least_fill)
    )

  @rule(fields=REQUESTS, name=st.integers(0, 12), samples=st.sampled_from((1, 1, 1, 3)))
  def submit(self, fields: dict, name: int, samples: int):
    for sample in range(samples):
      request = Request(id=f"{name}.{sample}", **fields)
      if request.id in self.loop.pieces:
        with pytest.raises(ValueError, match="expected a new name"):
          self.loop.submit(request)
      else:
        self.loop.submit(request)

  @rule(fields=REQUESTS, back=st.integers(1, 3), more=st.lists(TOKENS, max_size=2))
  @precondition(lambda self: self.loop.whole)
  def go_on(self, fields: dict, back: int, more: list[int]):
    """A next turn: its prompt is that of a request that ended, with its output."""
    whole = self.loop.whole[-back:][0]
    prompt = (*whole, *more)[: CONTEXT - fields["max_new_tokens"]]
    self.turn_number += 1
    self.loop.submit(Request(id=f"turn {self.turn_number}", **{**fields, "prompt": prompt}))

  @rule(data=st.data())
  @precondition(lambda self: self.loop.pieces)
  def abort(self, data):
    self.loop.abort(data.draw(st.sampled_from(sorted(self.loop.pieces))))

  @rule()
  @precondition(lambda self: len(self.loop.results) < 4)
  def plan(self):
    if not self.loop.plan() and not self.loop.results:
      assert not self.loop.pieces, "requests are left, nothing is in flight, and nothing is planned"

  @rule(count=st.integers(1, 12), run_ahead=st.integers(0, 3))
  def turns(self, count: int, run_ahead: int):
    for _ in range(count):
      self.loop.turn(run_ahead)
      self.loop.check()

  @rule()
  @precondition(lambda self: self.loop.results)
  def commit(self):
    self.loop.commit()

  @rule()
  @precondition(lambda self: self.loop.results)
  def fail(self):
    self.loop.fail()

  @rule(recompute=st.booleans())
  def update_weights(self, recompute: bool):
    self.loop.update_weights(recompute)

  @invariant()
  def holds(self):
    if hasattr(self, "loop"):
      self.loop.check()

  def teardown(self):
    if hasattr(self, "loop") and self.loop.sound:
      self.loop.drain()
      self.loop.check_empty()


def test_outputs_are_those_of_each_row_alone():
  # More of them take minutes: MACHINE_EXAMPLES=1500 python -m pytest tests/engine/host/test_machine.py
  examples = int(os.environ.get("MACHINE_EXAMPLES", "60"))
  run_state_machine_as_test(Machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None))
