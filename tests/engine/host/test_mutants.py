"""A test of the tests: each fault, patched into the code, is caught by driving the engine; without one nothing is."""

import functools
import inspect
import sys
import textwrap
from typing import Any

import pytest

from lynx_jax.engine.host.admission import Admission
from lynx_jax.engine.host.block_pool import BlockPool
from lynx_jax.engine.host.order import WaitingQueue
from lynx_jax.engine.host.prefix_cache import PrefixCache
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.running import Running
from lynx_jax.engine.host.scheduler import Scheduler
from lynx_jax.engine.host.sequence import Sequence
from lynx_jax.engine.host.step_plan import Programs
from tests.engine.host.drive import drive, small_limits
from tests.engine.host.engine_loop import EngineLoop

FAULTS = {
  "publish before written": (
    Running,
    "enter",
    "self._cache.promise(sequence)",
    "self._cache.publish(sequence, len(sequence.tokens))",
  ),
  "publish within the step": (
    Scheduler,
    "_chunk",
    "sequence.done = end",
    "sequence.done = end; self._publish(sequence)",
  ),
  "publish what a dead row did not write": (Scheduler, "_take", "- (reason is not None)", ""),
  "no check of the sequence's number": (
    Scheduler,
    "commit",
    "self._by_number.get(row.settings.sequence)",
    "self._by_id.get(row.settings.request_id)",
  ),
  "hit of the whole prompt": (PrefixCache, "match", "(len(sequence.tokens) - 1)", "len(sequence.tokens)"),
  "hold leaves the free list alone": (BlockPool, "hold", "del self._cached[block]", "pass"),
  "keys are not chained": (
    PrefixCache,
    "_key",
    "block_key(parent,",
    "block_key(root_key(0, sequence.request.cache_salt),",
  ),
  "salt is left out of the key": (PrefixCache, "_key", "sequence.request.cache_salt", "''"),
  "leaving keeps blocks": (Running, "leave", "self._pool.drop(sequence.table)", "pass"),
  "leaving keeps the slot": (Running, "leave", "heapq.heappush(self._free, sequence.slot)", "pass"),
  "a constrained row does not wait": (Sequence, "wants_token", "self.constrained and self.pending", "False"),
  "masks are left out": (Scheduler, "plan", "masked_draws(rows, chunks, self._by_number)", "()"),
  "a whole output goes on": (
    Sequence,
    "take",
    "if self.constrained.advance(token, drawn)",
    "if self.constrained.advance(token, drawn) and False",
  ),
  "planning past the limit": (Scheduler, "_rows", "not sequence.wants_token", "False"),
  "evicted block stays in the index": (BlockPool, "take", "self._forget(block)", "pass"),
  "block dropped once is free": (BlockPool, "drop", "if self._holders[block]:", "if False:"),
  "adaptive blocks pass for clean": (PrefixCache, "publish", "if adaptive else", "if False else"),
  "exact sequences read adaptive blocks": (PrefixCache, "match", "not sequence.settings.exact", "True"),
  "adaptive prefix is forgotten": (Running, "enter", "if hit.clean < len(hit.blocks) else None", "if False else None"),
  "new weights keep the cache": (Scheduler, "update_weights", "self._cache.forget(version)", "pass"),
  "new weights publish old blocks": (Scheduler, "update_weights", "sequence.stale = True", "pass"),
  "recovery waits for lost tokens": (Scheduler, "recover", "sequence.pending = 0", "pass"),
  "recovery keeps the cache": (Scheduler, "recover", "self._cache.forget(self.weights)", "pass"),
  "preempted with a token in flight returns": (Scheduler, "_admit", "sequence.pending or", "False or"),
  "preemption takes the oldest": (Running, "youngest", "self._sequences[-1]", "self._sequences[0]"),
  "promises outlive who made them": (Running, "leave", "self._cache.break_promises(sequence)", "pass"),
  "admission without room": (Admission, "fits", "needed <= available and", "True or"),
  "queue forgets whom it took out": (WaitingQueue, "remove", "self.tokens -= ", "self.tokens -= 0 * "),
  "hits off the canonical boundaries": (
    PrefixCache,
    "match",
    "len(blocks) // self._boundary * self._boundary",
    "len(blocks)",
  ),
  "rows publish in canonical mode": (Scheduler, "_publish", "if self._canonical is None", "if True"),
}

# Types are checked in the other tests; here that would be most of the time.
pytestmark = pytest.mark.usefixtures("own_errors")


def run(changes: dict, lookahead: int | None, again: float, seed: int, constrained: bool = False) -> None:
  """Drives one engine, and checks that nothing is left."""
  loop = EngineLoop(small_limits(**changes), admission=Admission(lookahead=lookahead))
  drive(loop, seed, 120, faults=0.03 if seed % 2 else 0.0, again=again, names=14, constrained=constrained)
  loop.check_empty()


def replace_weights_inside_a_prompt() -> None:
  """Weights are replaced inside a prompt; a second has its beginning computed anew, and a third finds both parts."""
  loop = EngineLoop(small_limits(programs=Programs(decode=(4,), mixed=(8,)), policy="", blocks=40))
  prompt = tuple(range(1, 15)) * 2
  loop.submit(Request(id="half", prompt=prompt, max_new_tokens=3))
  loop.turn(0)
  loop.update_weights(recompute=False)
  for name, tokens in (("beginning", (*prompt[:8], 15)), ("both", (*prompt, 15))):
    loop.drain()
    loop.submit(Request(id=name, prompt=tokens, max_new_tokens=3))
  loop.drain()
  loop.check_empty()


CASES = [
  functools.partial(run, changes, lookahead, again, seed)
  for seed in range(4)
  for changes, lookahead, again in (
    ({"blocks": 12}, 0, 0.5),
    ({"blocks": 60}, 4, 0.9),
    ({"blocks": 12, "policy": ""}, None, 0.7),
    ({"blocks": 24, "canonical_chunk": 8}, 0, 0.7),
  )
] + [replace_weights_inside_a_prompt, functools.partial(run, {"blocks": 12}, 0, 0.5, 1, constrained=True)]


def break_it(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, right: str, wrong: str) -> None:
  """Writes `wrong` for `right` in the source of a method."""
  found = inspect.getattr_static(owner, name)
  method: Any = found.fget if isinstance(found, property) else found
  source = textwrap.dedent(inspect.getsource(method))
  assert right in source, f"{owner.__name__}.{name} has changed: write the fault anew"
  names: dict = {}
  exec(compile(source.replace(right, wrong), f"<fault in {name}>", "exec"), vars(sys.modules[owner.__module__]), names)
  monkeypatch.setattr(owner, name, names[name])


@pytest.mark.parametrize("case", range(len(CASES)))
def test_without_a_fault_nothing_is_caught(case: int):
  CASES[case]()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(monkeypatch: pytest.MonkeyPatch, fault: str):
  break_it(monkeypatch, *FAULTS[fault])
  for case in CASES:
    try:
      case()
    except Exception:  # a crash is a catch, too
      return
  pytest.fail(f"nothing catches: {fault}")
