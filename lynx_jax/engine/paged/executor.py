"""Runs step plans on the device: weights, the paged cache, and the programs that read and change them."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int32

from lynx_jax.engine.host.request import TopLogprobs
from lynx_jax.engine.host.step_plan import Chunk, StepPlan, StepResult
from lynx_jax.engine.paged.adjusting import EditsPacker
from lynx_jax.engine.paged.plan_packing import PlanPacker
from lynx_jax.engine.paged.program_set import ProgramSet, StepProgram
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.paged.steps import PagedState, StepSettings
from lynx_jax.models.decoder import Decoder
from lynx_jax.models.spec import DecoderSpec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
  """A step that the device has been given.

  Attributes:
    plan: what it does.
    program: the program that runs it.
    slots: the slot of each draw.
    logprobs: whether some draw asks for log-probabilities.
    results: what comes back, packed.
    prompts: log-probabilities of prompts, packed, if the plan asks for them.
    experts: the experts of each row, if the plan asks for them.
    dispatch_seconds: time of the call that gave it to the device.
  """

  plan: StepPlan
  program: StepProgram
  slots: list[int]
  logprobs: bool
  results: jax.Array
  prompts: jax.Array | None
  experts: jax.Array | None
  dispatch_seconds: float


class StepCounts(NamedTuple):
  """What a step's routing read; arrays have one entry for each MoE layer.

  Attributes:
    rows: decoding rows that were there.
    active: distinct experts that ran.
    own: distinct experts that the model's own routing would have run; None where the settings do not ask for it.
    retained: worth that decoding rows retain, summed over rows, or None.
    worst: the least that a row retains, or None.
    readers: who read each expert, as bits (`lynx_jax.engine.paged.readers`), or None.
  """

  rows: int
  active: Int32[np.ndarray, "M"]
  own: Int32[np.ndarray, "M"] | None
  retained: Float32[np.ndarray, "M"] | None
  worst: Float32[np.ndarray, "M"] | None
  readers: Int32[np.ndarray, "M E"] | None = None


class Executor:
  """The device's side of the engine. Its memory is fixed at the start; nothing is compiled after `warm_up`."""

  def __init__(
    self,
    decoder: Decoder,
    settings: StepSettings,
    *,
    blocks: int,
    slots: int,
    table: int,
    decode: Sequence[int],
    mixed: Sequence[int],
    directory: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Allocates the cache; a program is compiled by `warm_up`, or when the first step needs one of its kind.

    Args:
      decoder: the weights.
      settings: of every step.
      blocks: of the pool.
      slots: sequences at once.
      table: blocks of one sequence at most.
      decode: sizes of the programs that decode, in rows.
      mixed: sizes of the programs that read prompts as well, in tokens.
      directory: where compiled programs are kept; None is beside JAX's compilation cache, if that is on.
      clock: seconds, to time what gives steps to the device.
    """
    self._clock = clock
    self.spec = decoder.spec
    self.blocks, self.slots = blocks, slots
    self.shapes = [StepShape(rows=rows, chunks=False, slots=slots, table=table) for rows in decode]
    self.shapes += [StepShape(rows=rows, chunks=True, slots=slots, table=table) for rows in mixed]
    self._dtype = decoder.dtype
    self._weights: tuple[Any, ...] = tuple(jax.tree.leaves(decoder))
    self._tree = jax.tree.structure(decoder)
    self.programs = ProgramSet(decoder, jax.eval_shape(self._fresh), settings, directory=directory)
    self._packer = PlanPacker(slots, table)
    self._edits = EditsPacker(self.shapes[0], self.spec.vocab)
    self._state: tuple[Any, ...] = ()
    self._warmed = False
    self.recover()

  def _fresh(self) -> PagedState:
    """An empty cache, and no sequence."""
    return empty_state(self.spec, self._dtype, blocks=self.blocks, slots=self.slots)

  def recover(self) -> None:
    """Makes the device's state anew: all blocks are empty and every slot is dead."""
    self._state = ()
    self._state = tuple(jax.tree.leaves(self._fresh()))

  def warm_up(self, progress: Callable[[StepShape, int, int], None] = lambda shape, done, total: None) -> None:
    """Compiles all programs, those that every plan fits into first; `progress` hears of each, done and total."""
    by_size = sorted(self.shapes, key=lambda shape: shape.rows, reverse=True)
    first = [next(shape for shape in by_size if shape.chunks == chunks) for chunks in (True, False)]
    order = first + [shape for shape in by_size if shape not in first]
    for done, shape in enumerate(order):
      self.programs.compile(shape)
      self._warmed = done > 0
      progress(shape, done + 1, len(order))

  def dispatch(self, plan: StepPlan) -> Pending:
    """Gives the device a step and returns at once."""
    program = self._program(plan.tokens, bool(plan.chunks))
    packed = self._packer.pack(plan, program)
    state, self._state = self._state, ()
    begin = self._clock()
    self._state, results, prompts, experts = program.run(self._weights, state, packed.array, self._edits.pack(plan))
    pending = Pending(
      plan=plan,
      program=program,
      slots=packed.slots,
      logprobs=packed.logprobs,
      results=results,
      prompts=prompts if any(chunk.targets for chunk in plan.chunks) else None,
      experts=experts if packed.routing else None,
      dispatch_seconds=self._clock() - begin,
    )
    for array in (pending.results, pending.prompts, pending.experts):
      if array is not None:
        array.copy_to_host_async()
    return pending

  def _program(self, rows: int, chunks: bool) -> StepProgram:
    """The smallest program that is ready and holds a plan.

    While `warm_up` compiles the rest, one that reads prompts may decode as well. Without `warm_up` the first step of a
    kind compiles its program.
    """
    if self._warmed and not self.programs.settings.prompts_apart:
      return self.programs.smallest(self.shapes, rows, chunks)
    of_kind = [shape for shape in self.shapes if shape.chunks == chunks]
    try:
      return self.programs.smallest(of_kind, rows, chunks)
    except LookupError:
      able = [shape for shape in of_kind if shape.rows >= rows]
      return self.programs.compile(min(able, key=lambda shape: shape.rows))

  def fetch(self, pending: Pending) -> tuple[StepResult, StepCounts]:
    """Waits for a step; returns what it drew, and what its routing read."""
    packed, layout = np.asarray(pending.results), pending.program.results
    count, slots = len(pending.slots), pending.slots

    def numbers(name: str) -> np.ndarray:
      return layout.view(packed, name)

    def by_slot(drawn: np.ndarray, empty: Any) -> list[Any]:
      values = [empty] * self.slots
      for slot, value in zip(slots, drawn[:count].tolist(), strict=True):
        values[slot] = value
      return values

    compared = [numbers(name) if name in layout else None for name in ("own", "retained", "worst", "readers")]
    counts = StepCounts(int(numbers("rows")), numbers("active"), *compared)
    result = StepResult(
      token=by_slot(numbers("ids"), 0),
      finite=by_slot(numbers("finite") != 0, True),
      alive=by_slot(numbers("alive") != 0, False),
      logprob=by_slot(numbers("chosen"), 0.0) if pending.logprobs else (),
      top=self._top(pending, layout.views(packed)) if pending.logprobs else {},
      prompt_logprobs=self._prompt_logprobs(pending),
      routing=self._routing(pending),
      experts=tuple(counts.active.tolist()),
      own_experts=() if counts.own is None else tuple(counts.own.tolist()),
      retained=_mean_retained(pending.plan, counts),
    )
    return result, counts

  def _top(self, pending: Pending, found: dict[str, np.ndarray]) -> dict[int, TopLogprobs]:
    """The likeliest tokens of the draws that ask for them."""
    wanted = {part.slot: part.settings.logprobs for part in (*pending.plan.rows, *pending.plan.chunks)}
    draws = {slot: at for at, slot in enumerate(pending.slots)}
    return {slot: _pairs(found, at, most) for slot, at in draws.items() if (most := wanted[slot])}

  def _prompt_logprobs(self, pending: Pending) -> dict[int, list[tuple[float, TopLogprobs]]]:
    if pending.prompts is None:
      return {}
    found = pending.program.prompts.views(np.asarray(pending.prompts))
    first, by_slot = len(pending.plan.rows), {}
    for chunk in pending.plan.chunks:
      most = chunk.settings.prompt_logprobs or 0
      rows = range(first, first + len(chunk.targets))
      if rows:
        by_slot[chunk.slot] = [(float(found["chosen"][row]), _pairs(found, row, most)) for row in rows]
      first += len(chunk.tokens)
    return by_slot

  def _routing(self, pending: Pending) -> dict[int, list[np.ndarray]]:
    if pending.experts is None:
      return {}
    experts, first = np.asarray(pending.experts), 0
    by_slot: dict[int, list[np.ndarray]] = {}
    for part in (*pending.plan.rows, *pending.plan.chunks):
      count = len(part.tokens) if isinstance(part, Chunk) else 1
      if part.settings.return_routing:
        by_slot[part.slot] = list(experts[first : first + count])
      first += count
    return by_slot

  def check(self, decoder: Decoder) -> None:
    """Looks whether other weights could be taken.

    Raises:
      ValueError: the weights have another structure, shape or dtype than those that the programs are compiled for.
    """
    tree = jax.tree.structure(decoder)
    if tree != self._tree:
      raise ValueError("update_weights: the new weights have another structure than the engine's: load the same model")
    for index, (old, new) in enumerate(zip(self._weights, jax.tree.leaves(decoder), strict=True)):
      if old.shape != new.shape or old.dtype != new.dtype:
        raise ValueError(
          f"update_weights: array {index} is {new.dtype}{list(new.shape)}: expected {old.dtype}{list(old.shape)}, "
          f"as the engine's weights have it"
        )

  def swap(self, decoder: Decoder) -> None:
    """Takes other weights from the next step on. Raises as `check`."""
    self.check(decoder)
    self._weights = tuple(jax.tree.leaves(decoder))


def empty_state(spec: DecoderSpec, dtype: Any, *, blocks: int, slots: int) -> PagedState:
  """A state without a sequence: a pool of `blocks` blocks a layer, all zero."""
  return PagedState(
    cache=tuple(layer.attention.cache_spec(dtype).allocate_blocks(blocks) for layer in spec.layers),
    token=jnp.zeros((slots,), jnp.int32),
    alive=jnp.zeros((slots,), bool),
  )


def _mean_retained(plan: StepPlan, counts: StepCounts) -> float:
  """Worth that adaptive rows keep, in the mean over rows and layers; 1 where it is not counted."""
  if counts.retained is None:
    return 1.0
  adaptive = sum(not row.settings.exact for row in plan.rows)
  if not adaptive:
    return 1.0
  # Exact rows keep 1 each.
  return (float(counts.retained.mean()) - (len(plan.rows) - adaptive)) / adaptive


def _pairs(found: dict[str, np.ndarray], row: int, most: int) -> TopLogprobs:
  ids, logprobs = found["top_ids"][row, :most], found["top_logprobs"][row, :most]
  return tuple(zip(ids.tolist(), logprobs.tolist(), strict=True))
