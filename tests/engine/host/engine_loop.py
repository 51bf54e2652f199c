"""The engine's loop around a scheduler and a shadow device, which checks everything after every step."""

import collections

import pytest

from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.request import Piece, Request
from lynx_jax.engine.host.scheduler import Scheduler
from lynx_jax.engine.host.sequence import State
from tests.engine.host.rules import HashRule
from tests.engine.host.shadow import ShadowDevice, nearest, next_token

WORDS = ("a", "b", "ab", "c", "ca", "", "d", "bb", "e", "abc", "f", "g", "é", "h", "ba", "i")


class Words:
  """A tokenizer that has one short word a token."""

  open_ids = frozenset()

  def decode(self, ids) -> str:
    """The words, joined."""
    return "".join(WORDS[token] for token in ids)


def alone(request: Request, eos_ids: frozenset[int]) -> tuple[list[int], str, str]:
  """Tokens, text and reason of a request that runs by itself, by the plainest code there is."""
  rule = request.constraint
  assert rule is None or isinstance(rule, HashRule)
  stops = request.stop_token_ids | (frozenset() if request.ignore_eos else eos_ids)
  tokens, drawn = list(request.prompt), []
  text = ""
  while len(drawn) < request.max_new_tokens:
    token = next_token(tokens, request.sampling.seed)
    if token is None:
      return drawn, text, "error"
    if rule is not None:
      allowed = rule.tokens(drawn) - eos_ids | (eos_ids if rule.may_end(drawn) else set())
      token = nearest(token, allowed.__contains__)
    tokens.append(token)
    drawn.append(token)
    for character in WORDS[token]:
      text += character
      ends = [stop for stop in request.stop_strings if text.endswith(stop)]
      if ends:
        return drawn, text[: -max(map(len, ends))], "stop"
    if token in stops:
      return drawn, text, "stop"
    if rule is not None and not rule.tokens(drawn) - eos_ids:
      if rule.may_end(drawn):
        return drawn, text, "stop"
      if len(drawn) < request.max_new_tokens:
        return drawn, text, "error"
  return drawn, text, "length"


class EngineLoop:
  """A scheduler, a device, and results on their way.

  Attributes:
    pieces: of the requests that have not ended.
    ended: last pieces of those that have.
    whole: prompts of those that have, with their outputs.
    steps: that were planned.
    sound: whether the device has refused nothing.
  """

  def __init__(self, limits: Limits, **options):
    self.limits = limits
    self.scheduler = Scheduler(limits, decoder=Words(), **options)
    self.device = ShadowDevice(limits)
    self.results: collections.deque = collections.deque()
    self.pieces: dict[str, list[Piece]] = {}
    self.requests: dict[str, Request] = {}
    self.ended: dict[str, Piece] = {}
    self.whole: list[tuple[int, ...]] = []
    self.steps = 0
    self.sound = True
    self._taken: set[int] = set()
    self._take, self.scheduler.pool.take = self.scheduler.pool.take, self._note_taken

  def submit(self, request: Request) -> None:
    rule, known = request.constraint, request.id in self.pieces
    if isinstance(rule, HashRule) and not known and not rule.tokens([]) - self.limits.eos_ids:
      with pytest.raises(ValueError, match="the constraint allows no token"):
        self.scheduler.submit(request)
      return
    self.scheduler.submit(request)
    number = self.scheduler._by_id[request.id].number
    self.requests[request.id] = self.device.requests[number] = request
    self.pieces[request.id] = []
    self.ended.pop(request.id, None)

  def abort(self, request_id: str) -> None:
    piece = self.scheduler.abort(request_id)
    assert (piece is None) == (request_id not in self.pieces)
    if piece is not None:
      self._receive(piece)

  def plan(self) -> bool:
    """Plans and dispatches a step; False if there is nothing to do."""
    before, self._taken = list(self.scheduler.pool._keys), set()
    plan = self.scheduler.plan()
    if plan is None:
      return False
    self.steps += 1
    published = {block for block, key in enumerate(before) if key is not None} - self._taken
    self.sound = False
    self.results.append(self.device.run(plan, published))
    self.sound = True
    return True

  def commit(self) -> None:
    for piece in self.scheduler.commit(self.results.popleft()):
      self._receive(piece)

  def fail(self) -> None:
    self.device.fail()
    self.results.clear()
    self.scheduler.recover()

  def update_weights(self, recompute: bool) -> None:
    self.device.weights += 1
    self.device.recovered = self.device.recovered or recompute
    self.scheduler.update_weights(self.device.weights, recompute=recompute)
    self.device.stale = {sequence.number for sequence in self.scheduler._running}

  def turn(self, run_ahead: int) -> bool:
    """One turn of the engine's loop; False if nothing is left to do."""
    planned = self.plan()
    if self.results and (not planned or len(self.results) > run_ahead):
      self.commit()
      return True
    return planned

  def drain(self, run_ahead: int = 1) -> None:
    """Runs everything to its end, within a bound that a scheduler without progress would pass."""
    live = list(self.scheduler._by_number.values())
    # A sequence that is the oldest takes a step for each token at most, and waits for steps in flight after each.
    bound = 10 + sum(2 * (len(one.request.prompt) + one.request.max_new_tokens) + 10 for one in live)
    turns = 0
    while self.turn(run_ahead):
      turns += 1
      assert turns <= bound, f"{len(self.scheduler._by_id)} sequences have not ended after {turns} turns"
    self.check()
    assert not self.scheduler._by_id, "sequences are left, and nothing is planned"

  def _note_taken(self, count: int) -> list[int]:
    blocks = self._take(count)
    self._taken |= set(blocks)
    return blocks

  def _receive(self, piece: Piece) -> None:
    self.pieces[piece.request_id].append(piece)
    if piece.finished is not None:
      self._judge(piece.request_id)
      self.ended[piece.request_id] = piece
      del self.pieces[piece.request_id]

  def _judge(self, request_id: str) -> None:
    """Compares a finished request with itself alone."""
    request, pieces = self.requests[request_id], self.pieces[request_id]
    finished = pieces[-1].finished
    assert finished is not None
    tokens = [token for piece in pieces for token in piece.token_ids]
    text = "".join(piece.text for piece in pieces)
    before = len(request.output_so_far)
    tokens = [*request.output_so_far, *tokens]
    self.whole.append((*request.prompt, *tokens))
    expected, whole, reason = alone(request, self.limits.eos_ids)
    if finished.reason == "abort":
      assert tokens == expected[: len(tokens)]
      assert whole.startswith(text) or before
      return
    assert (tokens, finished.reason) == (expected, reason)
    assert text == whole or (reason == "error" and whole.startswith(text)) or (before and whole.endswith(text))
    logprobs = [] if request.logprobs is None else [-float(token) for token in tokens[before:]]
    assert [value for piece in pieces for value in piece.logprobs] == logprobs
    assert finished.output_tokens == len(tokens)
    if request.prompt_logprobs is not None and (tokens or not request.max_new_tokens):
      reported = [value for piece in pieces for value, _ in piece.prompt_logprobs]
      assert reported == [-float(token) for token in request.prompt[1:]]
    if request.return_routing:
      assert list(finished.routing) == list(range(len(finished.routing)))
      assert len(finished.routing) >= len(request.prompt) + len(tokens) - 1

  def check(self) -> None:
    """Every invariant of pool, sequences and queue."""
    self._check_pool()
    scheduler = self.scheduler
    running, waiting = list(scheduler._running), list(scheduler._queue)
    assert len(set(running) | set(waiting)) == len(running) + len(waiting) == len(scheduler._by_number)
    assert set(scheduler._by_number.values()) == set(scheduler._by_id.values()) == set(running) | set(waiting)
    for ordered in (running, waiting):
      assert [one.rank for one in ordered] == sorted(one.rank for one in ordered)
    slots = [one.slot for one in running]
    assert len(set(slots)) == len(slots)
    assert sorted(slots + scheduler._running._free) == list(range(self.limits.slots))
    assert sum(one.state is State.PREFILLING for one in running) <= 1
    for one in waiting:
      assert one.state is State.WAITING
      assert (one.slot, one.table, one.done, one.keys) == (-1, (), 0, [])
    for one in running:
      assert one.state in (State.PREFILLING, State.DECODING)
      assert one.done <= len(one.table) * self.limits.block_size
      assert one.done < len(one.tokens) + one.pending or not one.request.max_new_tokens
      assert len(one.keys) * self.limits.block_size <= min(one.done, len(one.tokens))
      assert one.pending <= len(scheduler._in_flight)
      assert one.drawn <= one.request.max_new_tokens
    self.device.stale &= {one.number for one in running}

  def _check_pool(self) -> None:
    pool, tables = self.scheduler.pool, [one.table for one in self.scheduler._running]
    counts = collections.Counter(block for table in tables for block in table)
    assert pool._holders == [counts[block] for block in range(pool.blocks)]
    assert all(len(set(table)) == len(table) for table in tables)
    free = [*pool._empty, *pool._cached]
    assert len(set(free)) == len(free) == pool.available
    assert set(free) == {block for block in range(pool.blocks) if not counts[block]}
    assert pool.held + pool.available == pool.blocks
    assert pool._index == {key: block for block, key in enumerate(pool._keys) if key is not None}
    assert all(pool._keys[block] is not None for block in pool._cached)
    assert all(pool._keys[block] is None for block in pool._empty)
    full = {block for one in self.scheduler._running for block in one.table[: len(one.keys)]}
    assert {block for block, holders in counts.items() if holders > 1} <= full

  def check_empty(self) -> None:
    """Nothing is held once all have ended."""
    self.check()
    stats = self.scheduler.stats()
    assert (stats.running, stats.waiting, stats.waiting_tokens, stats.held_blocks) == (0, 0, 0, 0)
    assert len(self.scheduler._running._free) == self.limits.slots
    assert not self.scheduler._cache._promised
