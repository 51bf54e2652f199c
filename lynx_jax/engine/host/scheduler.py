"""Who runs in the next step, and what a finished step means: the only code that changes sequences.

There are no phases. A sequence has tokens and computed positions, and each step lets it catch up. Counts advance when a
step is planned, so the next one can be planned while it runs; tokens arrive when its result is committed. The same
calls in the same order always give the same plans: nothing here reads a clock.
"""

import collections

from lynx_jax.engine.host.admission import Admission
from lynx_jax.engine.host.block_pool import BlockPool
from lynx_jax.engine.host.chunking import Chunking, chunk_length, smallest_program
from lynx_jax.engine.host.detokenize import OutputText
from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.load import StepTimes
from lynx_jax.engine.host.order import FirstCome, Order, WaitingQueue, rank
from lynx_jax.engine.host.prefix_cache import Hit, PrefixCache
from lynx_jax.engine.host.request import Fault, FinishReason, Overloaded, Piece, Request
from lynx_jax.engine.host.running import Running
from lynx_jax.engine.host.sequence import Sequence, State, adjusted_draws, masked_draws, new_sequence
from lynx_jax.engine.host.stats import HostStats
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, Program, StepPlan, StepResult
from lynx_jax.text.detokenizer import Decoder
from pallas_kernels.checks import require


class Scheduler:
  """Sequences from `submit` to their last piece.

  `plan` decides a step, `commit` takes its result; between them any number of steps may be in flight, and results are
  committed in the order of plans. Sequences that wait hold nothing. The oldest that runs is never preempted, and alone
  it always fits: so every sequence ends.

  Attributes:
    limits: as given.
    programs: the shapes that plans use; a subset of those of `limits` may be set while the others are compiled.
    pool: the blocks.
    weights: version of the weights that the next step runs with.
    paused: whether sequences that never ran go on waiting. Set it to let the others end.
    draining: whether `submit` refuses requests. Set it to end the engine.
  """

  def __init__(
    self,
    limits: Limits,
    *,
    decoder: Decoder | None = None,
    order: Order = FirstCome(),  # noqa: B008 (frozen)
    admission: Admission = Admission(),  # noqa: B008 (frozen)
    chunking: Chunking = Chunking(),  # noqa: B008 (frozen)
    times: StepTimes | None = None,
    prompts_first: bool = False,
  ):
    """`decoder` makes text, `times` predicts steps; with `prompts_first` no row decodes while a prompt can be read."""
    self.limits, self.programs = limits, limits.programs
    self.pool = BlockPool(limits.blocks)
    self.weights = 0
    self.paused = self.draining = False
    self._canonical, self._prompts_first = limits.canonical_chunk, prompts_first
    self._turns = prompts_first or self._canonical is not None
    boundary = 1 if self._canonical is None else self._canonical // limits.block_size
    self._cache = PrefixCache(
      self.pool, block_size=limits.block_size, policy=limits.policy, boundary=boundary,
      short_prompt=limits.short_prompt,
    )  # fmt: skip
    # Preempted tokens are computed again in chunks, which gives other bits than decode rows did.
    self._admission = admission if self._canonical is None else Admission(lookahead=None)
    self._chunking, self._times, self._decoder = chunking, times, decoder
    self._queue = WaitingQueue(order)
    self._running = Running(limits.slots, self.pool, self._cache, limits.block_size)
    self._by_id: dict[str, Sequence] = {}
    self._by_number: dict[int, Sequence] = {}
    self._in_flight: collections.deque[tuple[StepPlan, int]] = collections.deque()
    # The last prompt that a step left unfinished; it is so still while it prefills.
    self._partial: Sequence | None = None
    self._chunked = False
    self._submitted = self._planned = self._preemptions = self._recomputed = 0
    self._prompt_tokens = self._cached_tokens = 0
    # Requests here whose draws are told more than a sampling; most steps have none, and look at no row for it.
    self._particular = 0

  def submit(self, request: Request) -> None:
    """Lets a request wait for its turn.

    Raises:
      ValueError: it can never run here; the message names the field and the remedy.
      Overloaded: the queue is full, or the engine drains.
    """
    remedy = "another request of this name has not ended"
    require(request.id not in self._by_id, "Request.id", request.id, "a new name", remedy)
    self.limits.check(request, text=self._decoder is not None)
    if self.draining:
      raise Overloaded(f"request {request.id!r} comes while the engine drains: send it to another")
    self.limits.check_queue(request, waiting=len(self._queue), tokens=self._queue.tokens)
    number = self._submitted
    self._submitted += 1
    place = rank(number, request.priority)
    adaptive, vocab = bool(self.limits.policy), self.limits.vocab
    sequence = new_sequence(request, number, place, self.limits.eos_ids, adaptive=adaptive, vocab=vocab)
    if self._decoder is not None:
      sequence.text = OutputText(self._decoder, request.stop_strings, request.text_ids)
      sequence.text.skip(request.output_so_far)
    self._by_id[request.id] = self._by_number[number] = sequence
    self._particular += sequence.is_particular
    self._queue.add(sequence)

  def abort(self, request_id: str) -> Piece | None:
    """Ends a request now, whatever is in flight for it; None if there is no such request (any more)."""
    sequence = self._by_id.get(request_id)
    return None if sequence is None else self._finish(sequence, "abort")

  def plan(self, limit: int | None = None) -> StepPlan | None:
    """The next step; None if there is nothing to do before a result is committed or a request submitted.

    Args:
      limit: the most experts that the adaptive rows may read in a layer; None is no limit.
    """
    rows, chunks = self._in_turns() if self._turns else self._mixed()
    if not rows and not chunks:
      return None
    program = self._program(len(rows), sum(len(chunk.tokens) for chunk in chunks))
    adjusted, masked = (), ()
    if self._particular:
      adjusted, masked = adjusted_draws(rows, chunks, self._by_number), masked_draws(rows, chunks, self._by_number)
    plan = StepPlan(
      number=self._planned, program=program, rows=tuple(rows), chunks=tuple(chunks), limit=limit, adjusted=adjusted,
      masked=masked,
    )  # fmt: skip
    self._planned += 1
    self._in_flight.append((plan, self.weights))
    # Only now: a sequence that reads these blocks must be in a later step.
    for chunk in chunks:
      self._publish(self._by_number[chunk.settings.sequence])
    return plan

  def commit(self, result: StepResult) -> list[Piece]:
    """Takes the result of the oldest step in flight; returns what it gave the requests that are still there."""
    plan, weights = self._in_flight.popleft()
    pieces = []
    for row in plan.rows:
      sequence = self._by_number.get(row.settings.sequence)
      if sequence is not None:
        if sequence.settings.return_routing:
          _add_new(sequence.routing, row.position, result.routing[row.slot])
        pieces.append(self._take(sequence, row.slot, result, weights))
    for chunk in plan.chunks:
      sequence = self._by_number.get(chunk.settings.sequence)
      if sequence is None:
        continue
      if sequence.settings.return_routing:
        _add_new(sequence.routing, chunk.start, result.routing[chunk.slot])
      if chunk.targets:
        _add_new(sequence.prompt_logprobs, chunk.start, result.prompt_logprobs[chunk.slot])
      if chunk.draws:
        pieces.append(self._take(sequence, chunk.slot, result, weights))
      elif not sequence.request.max_new_tokens and chunk.end == len(sequence.tokens):
        pieces.append(self._finish(sequence, "length")._replace(prompt_logprobs=tuple(sequence.prompt_logprobs)))
    return pieces

  def recover(self) -> None:
    """After a step failed and took the device's cache with it: all that ran waits, to be computed again.

    Steps in flight are forgotten; their results must not be committed. Tokens that they drew are drawn again.
    """
    self._in_flight.clear()
    for sequence in self._running:
      self._preempt(sequence)
    for sequence in self._by_number.values():
      sequence.pending = 0
    self._cache.forget(self.weights)

  def update_weights(self, version: int, *, recompute: bool) -> None:
    """Notes that all later steps run with other weights.

    Args:
      version: of the new weights, larger than all before.
      recompute: whether running sequences compute their positions again. If not, they go on from what the old weights
        computed, and share nothing of it.
    """
    require(version > self.weights, "version", version, f"a number above {self.weights}, the version so far")
    self.weights = version
    self._cache.forget(version)
    for sequence in self._by_number.values():
      sequence.clean_keys.clear()
    for sequence in self._running:
      sequence.stale = True
      if recompute:
        self._preempt(sequence)

  @property
  def started(self) -> list[str]:
    """Names of the requests that run, or did before they lost their blocks."""
    return [one.request.id for one in self._by_number.values() if one.preemptions or one.state is not State.WAITING]

  def run_ahead(self, most: int) -> int:
    """How many steps may be in flight when the next is planned, `most` at the best.

    A row that reaches a stop string runs until the host has read its text. Where rows vote, that would change others.
    Penalties depend on all tokens before.
    """
    if most and any(sequence.text_decides for sequence in self._running):
      return 0 if self.limits.policy or any(sequence.counts_tokens for sequence in self._running) else 1
    return most

  def stats(self) -> HostStats:
    """Counts for metrics."""
    return HostStats(
      waiting=len(self._queue),
      waiting_tokens=self._queue.tokens,
      running=len(self._running),
      in_flight=len(self._in_flight),
      free_blocks=self.pool.available - self.pool.cached,
      held_blocks=self.pool.held,
      cached_blocks=self.pool.cached,
      waste=self._running.waste(),
      preemptions=self._preemptions,
      recomputed=self._recomputed,
      prompt_tokens=self._prompt_tokens,
      cached_tokens=self._cached_tokens,
    )

  def _mixed(self) -> tuple[list[DecodeRow], list[Chunk]]:
    """Every row that can draw, and chunks beside them. Nobody enters in a step that had to preempt."""
    before = self._preemptions
    rows = self._rows()
    return rows, self._chunks(len(rows), admit=self._preemptions == before)

  def _in_turns(self) -> tuple[list[DecodeRow], list[Chunk]]:
    """Rows or chunks, each with a program of their own; they take turns where there are both."""
    if self._chunked and not self._prompts_first and (rows := self._rows()):
      self._chunked = False
      return rows, []
    chunks = self._chunks(0, admit=True)
    self._chunked = bool(chunks)
    return ([], chunks) if chunks else (self._rows(), [])

  def _program(self, rows: int, chunk_tokens: int) -> Program:
    if self._canonical is None:
      return smallest_program(self.programs, rows, chunk_tokens)
    return Program("mixed", self._canonical) if chunk_tokens else Program("decode", self.limits.programs.decode[-1])

  def _rows(self) -> list[DecodeRow]:
    """A row for each sequence that can draw, the oldest first; makes room for it by preempting the youngest."""
    rows, decoding = [], State.DECODING
    for sequence in self._running:
      if sequence.state is not decoding or not sequence.wants_token or not self._make_room(sequence):
        continue
      settings, position = sequence.settings, sequence.done
      rows.append(DecodeRow(sequence.slot, position, sequence.drawn, sequence.table, settings))
      if not settings.exact and sequence.adaptive_from is None:
        sequence.adaptive_from = position
      sequence.done += 1
      sequence.pending += 1
    return rows

  def _make_room(self, sequence: Sequence) -> bool:
    """Room for a sequence's next position; False if the sequence itself had to make room for older ones."""
    while not self._running.grow(sequence):
      youngest = self._running.youngest
      self._preempt(youngest)
      if youngest is sequence:
        return False
    return True

  def _chunks(self, rows: int, admit: bool) -> list[Chunk]:
    """Chunks of prompts beside so many rows, of newcomers too if `admit`.

    At most one prompt is left unfinished by a step. If it is longer than a step, half of each step is for shorter
    ones that need no other.
    """
    partial = self._partial if self._partial and self._partial.state is State.PREFILLING else None
    wanted = (partial.missing if partial else 0) + (self._queue.wanted(self.paused) if admit else 0)
    if not wanted:
      return []
    size = self._canonical or self._chunking.size(self.programs, rows, wanted, self._times)
    room, chunks = size - rows, []
    ends = partial is None or partial.missing <= room
    if admit:
      aside = room - (partial.missing if partial else 0) if ends else 0 if self._canonical else room // 2
      chunks = self._admit(aside, may_be_cut=ends)
    if partial is not None:
      length = chunk_length(partial.missing, room - sum(len(chunk.tokens) for chunk in chunks), self._canonical)
      chunks.append(self._chunk(partial, length))
    return chunks

  def _admit(self, room: int, may_be_cut: bool) -> list[Chunk]:
    """First chunks of waiting sequences, `room` tokens at most. If `may_be_cut`, one of them need not be whole."""
    chunks, returned = [], False
    if not self._running.has_slot:
      return chunks
    for sequence in self._queue.candidates(lambda sequence: len(self._cache.match(sequence).blocks), self.paused):
      if not room or not self._running.has_slot:
        break
      # Its newest token is in flight; or it was preempted, and another such sequence returns in this step.
      if sequence.pending or (sequence.preemptions and returned):
        continue
      hit = self._cache.match(sequence)
      missing = len(sequence.tokens) - len(hit.blocks) * self.limits.block_size
      length = chunk_length(missing, room, self._canonical)
      if hit.awaited or not length or (length < missing and not may_be_cut):
        continue
      if not self._fits(sequence, hit):
        break
      self._enter(sequence, hit)
      chunks.append(self._chunk(sequence, length))
      room -= length
      may_be_cut = may_be_cut and length == missing
      returned = returned or sequence.preemptions > 0
    return chunks

  def _fits(self, sequence: Sequence, hit: Hit) -> bool:
    shared = len(hit.blocks) - self.pool.idle(hit.blocks)
    return self._admission.fits(sequence, shared, self.pool.available, self._running, self.limits.block_size)

  def _enter(self, sequence: Sequence, hit: Hit) -> None:
    """Lets a waiting sequence run."""
    self._queue.admit(sequence)
    self._running.enter(sequence, hit)
    if sequence.cached_tokens is None:
      # Of the prompt: what another engine has drawn may be there too.
      sequence.cached_tokens = min(sequence.done, len(sequence.request.prompt))
      self._cached_tokens += sequence.cached_tokens
      self._prompt_tokens += len(sequence.request.prompt)

  def _chunk(self, sequence: Sequence, length: int) -> Chunk:
    """The next `length` known tokens of a sequence that prefills."""
    start, end, settings = sequence.done, sequence.done + length, sequence.settings
    whole = end == len(sequence.tokens)
    draws = whole and sequence.wants_token
    chunk = Chunk(
      sequence.slot, start, tuple(sequence.tokens[start:end]), draws, sequence.drawn, sequence.table, settings,
      () if settings.prompt_logprobs is None else sequence.request.prompt[start + 1 : end + 1],
    )  # fmt: skip
    sequence.done = end
    if whole:
      sequence.state = State.DECODING
      sequence.pending += draws
    else:
      self._partial = sequence
    return chunk

  def _take(self, sequence: Sequence, slot: int, result: StepResult, weights: int) -> Piece:
    """Adds the token that a step drew; ends the sequence if it was the last."""
    sequence.pending -= 1
    if not result.finite[slot]:
      self._cache.withdraw(sequence)
      message = f"the model's logits are not finite at position {len(sequence.tokens)}: damaged weights, or an overflow"
      return self._finish(sequence, "error", message, "logits")
    token = result.token[slot]
    first = len(sequence.tokens) == len(sequence.request.prompt)
    if not sequence.weights or sequence.weights[-1] != weights:
      sequence.weights.append(weights)
    stopped = not result.alive[slot] or token in sequence.settings.stop_ids
    reason, text, message, fault = sequence.take(token, stopped=stopped)
    # A row that drew a stop token was dead in the next step, which may be in flight: that token was never written.
    known = len(sequence.tokens) - (reason is not None)
    if known >= (len(sequence.keys) + 1) * self.limits.block_size:
      self._publish(sequence, known)
    return Piece(
      sequence.request.id,
      (token,),
      text,
      () if sequence.settings.logprobs is None else (result.logprob[slot],),
      (result.top[slot],) if slot in result.top else (),
      tuple(sequence.prompt_logprobs) if first else (),
      None if reason is None else self._finish(sequence, reason, message, fault).finished,
    )

  def _publish(self, sequence: Sequence, known: int | None = None) -> None:
    """Publishes what is written and known; of canonical chunks only, where the bits of rows are other bits."""
    written = sequence.done if known is None else min(sequence.done, known)
    self._cache.publish(sequence, written if self._canonical is None else min(written, len(sequence.request.prompt)))

  def _preempt(self, sequence: Sequence) -> None:
    """Takes slot and blocks from a running sequence; it waits at its old place, to be computed again."""
    self._preemptions += 1
    sequence.preemptions += 1
    if sequence.adaptive_from is not None:
      self._recomputed += sequence.done - sequence.adaptive_from
    self._running.leave(sequence, State.WAITING)
    self._queue.add(sequence)

  def _finish(self, sequence: Sequence, reason: FinishReason, message: str = "", fault: Fault | None = None) -> Piece:
    """Ends a sequence, wherever it is."""
    if sequence.state is State.WAITING:
      self._queue.remove(sequence)
      sequence.state = State.FINISHED
    else:
      self._running.leave(sequence, State.FINISHED)
    del self._by_id[sequence.request.id], self._by_number[sequence.number]
    self._particular -= sequence.is_particular
    return Piece(sequence.request.id, finished=sequence.finished(reason, message, fault))


def _add_new(known: list, start: int, entries) -> None:
  """Adds entries of consecutive positions from `start` on; those that are known stay as they are."""
  known.extend(entries[max(len(known) - start, 0) :])
