"""A device that stores tokens where keys and values would be, and draws a hash of what a row reads through its table.

So a wrong table, a block given away too early or a place that was never written changes a token, or is refused at once.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, RowSettings, StepPlan, StepResult

VOCAB = 16
NO_TOKEN = -7
"""What a slot that did not draw returns: nobody may use it."""


class RefusedError(AssertionError):
  """The plan asks for something that no device may do."""


class Place(NamedTuple):
  """What lies at one position: the token, and what computed it.

  It is adaptive, or of older weights, if anything that it was computed from is.
  """

  token: int
  position: int
  adaptive: bool
  by_row: bool
  salt: str
  weights: int


def next_token(tokens: list[int], seed: int) -> int | None:
  """What the model says after `tokens`; None for logits that are not finite."""
  drawn = zlib.crc32(bytes(tokens), seed)
  return None if drawn % 509 == 0 else drawn // 509 % VOCAB


def nearest(token: int, allowed: Callable[[int], bool]) -> int:
  """The first token that may come, from `token` on and around."""
  return next(one % VOCAB for one in range(token, token + VOCAB) if allowed(one % VOCAB))


def refuse(wrong: object, message: str) -> None:
  if wrong:
    raise RefusedError(message)


class ShadowDevice:
  """Runs plans at once, in order: as a device does, whose results the host sees later.

  Attributes:
    weights: version of the weights.
    stale: numbers of sequences that may read what older weights computed.
    requests: by number of the sequence.
    recovered: whether rows' positions were ever computed again in chunks, with other bits.
  """

  def __init__(self, limits: Limits):
    self.limits = limits
    self.weights = 0
    self.stale: set[int] = set()
    self.requests: dict[int, Request] = {}
    self.recovered = False
    self._lose_all()

  def fail(self) -> None:
    """Loses everything."""
    self.recovered = True
    self._lose_all()

  def _lose_all(self) -> None:
    self._places: dict[tuple[int, int], Place] = {}
    self._owner: dict[int, int] = {}
    self._token: dict[int, int] = {}
    self._alive: set[int] = set()

  def run(self, plan: StepPlan, published: set[int]) -> StepResult:
    """Checks and runs one step; `published` are the blocks that could be found before it was planned, and still can."""
    self._check_shape(plan)
    writes: dict[tuple[int, int], int] = {}
    for part in (*plan.rows, *plan.chunks):
      for place in self._writes(part):
        refuse(place in writes, f"two rows write {place}")
        refuse(place[0] in published, f"{place} is in a published block")
        writes[place] = part.slot
    slots = self.limits.slots
    token, finite, alive = [NO_TOKEN] * slots, [False] * slots, [False] * slots
    prompt_logprobs, routing = {}, {}
    masks = {mask.slot: mask for mask in plan.masked}
    before, self._places = self._places, dict(self._places)
    for part in (*plan.rows, *plan.chunks):
      if isinstance(part, DecodeRow) and part.slot not in self._alive:
        continue
      read = self._run(part, before, writes)
      if isinstance(part, DecodeRow) or part.draws:
        drawn = next_token(read, part.settings.sampling.seed)
        refuse((part.slot in masks) != part.settings.constrained, "a draw is masked, or is not")
        if drawn is not None and part.slot in masks:
          drawn = nearest(drawn, masks[part.slot].allows)
        finite[part.slot] = drawn is not None
        token[part.slot] = NO_TOKEN if drawn is None else drawn
        alive[part.slot] = drawn is not None and drawn not in part.settings.stop_ids
        self._token[part.slot] = token[part.slot]
        (self._alive.add if alive[part.slot] else self._alive.discard)(part.slot)
      if isinstance(part, Chunk) and part.targets:
        prompt_logprobs[part.slot] = [(-float(target), ()) for target in part.targets]
      if part.settings.return_routing:
        start, count = (part.position, 1) if isinstance(part, DecodeRow) else (part.start, len(part.tokens))
        routing[part.slot] = list(range(start, start + count))
    logprob = [-float(one) for one in token]
    return StepResult(
      token=token, finite=finite, alive=alive, logprob=logprob, prompt_logprobs=prompt_logprobs, routing=routing
    )

  def _check_shape(self, plan: StepPlan) -> None:
    slots = [part.slot for part in (*plan.rows, *plan.chunks)]
    refuse(len(set(slots)) < len(slots), "a slot takes part twice")
    refuse(any(not 0 <= slot < self.limits.slots for slot in slots), "no such slot")
    refuse(any(not chunk.tokens for chunk in plan.chunks), "a chunk of no token")
    refuse((plan.program.kind == "decode") != (not plan.chunks), "chunks need a mixed program, rows alone a decode one")
    canonical, programs = self.limits.canonical_chunk, self.limits.programs
    refuse(plan.program.size not in getattr(programs, plan.program.kind), "no such program")
    if canonical is not None:
      refuse(plan.rows and plan.chunks, "rows and chunks in one step")
      refuse(plan.program.size != (canonical if plan.chunks else programs.decode[-1]), "another program")
      for chunk in plan.chunks:
        refuse(chunk.start % canonical, "a chunk starts off the boundaries")
        last = chunk.draws or not self.requests[chunk.settings.sequence].max_new_tokens
        refuse(chunk.end % canonical and not last, "a chunk ends off the boundaries")

  def _writes(self, part: DecodeRow | Chunk) -> list[tuple[int, int]]:
    if isinstance(part, DecodeRow):
      return [self._place(part.table, part.position)] if part.slot in self._alive else []
    return [self._place(part.table, position) for position in range(part.start, part.end)]

  def _place(self, table: tuple[int, ...], position: int) -> tuple[int, int]:
    index, offset = divmod(position, self.limits.block_size)
    refuse(index >= len(table), f"position {position} is not in the table {table}")
    refuse(not 0 <= table[index] < self.limits.blocks, f"no block {table[index]}")
    return table[index], offset

  def _run(self, part: DecodeRow | Chunk, before: dict[tuple[int, int], Place], writes: dict) -> list[int]:
    """Writes what a row or a chunk computes; returns the tokens that its last position reads."""
    settings, request = part.settings, self.requests[part.settings.sequence]
    row = isinstance(part, DecodeRow)
    if row:
      refuse(self._owner.get(part.slot) != settings.sequence, "the token in the slot belongs to another sequence")
      start, tokens = part.position, [self._token[part.slot]]
      refuse(part.drawn >= request.max_new_tokens, "a row draws more tokens than were asked for")
    else:
      start, tokens = part.start, list(part.tokens)
      self._owner[part.slot] = settings.sequence
      self._alive.discard(part.slot)
    end = start + len(tokens)
    if row or part.draws:
      refuse(part.drawn != end - len(request.prompt), "the count of drawn tokens is wrong")
    read, adaptive, weights = [], row and not settings.exact, self.weights
    for position in range(start):
      place = self._place(part.table, position)
      refuse(writes.get(place, part.slot) != part.slot, f"{place} is written in this very step")
      found = before.get(place)
      refuse(found is None or found.position != position, f"{place} was never written for position {position}")
      assert found is not None
      self._check_read(found, position, settings, request)
      adaptive, weights = adaptive or found.adaptive, min(weights, found.weights)
      read.append(found.token)
    for position, token in enumerate(tokens, start):
      self._places[self._place(part.table, position)] = Place(
        token, position, adaptive, row, request.cache_salt, weights
      )
    return read + tokens

  def _check_read(self, found: Place, position: int, settings: RowSettings, request: Request) -> None:
    refuse(found.adaptive and settings.exact, "an exact row reads what an adaptive one computed")
    refuse(found.salt != request.cache_salt, "a row reads what another salt computed")
    fresh = found.weights == self.weights or settings.sequence in self.stale
    refuse(not fresh, "a row reads what older weights computed")
    if self.limits.canonical_chunk is not None and not self.recovered:
      refuse(found.by_row != (position >= len(request.prompt)), "a row reads other bits than it would alone")
