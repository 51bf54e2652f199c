"""A step plan as the packed array that a program takes."""

from typing import NamedTuple

import numpy as np

from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, RowSettings, StepPlan
from lynx_jax.engine.paged.program_set import StepProgram
from lynx_jax.engine.paged.random_keys import stream_key
from lynx_jax.engine.paged.step_arrays import ADAPTIVE, CHUNK, EXACT
from lynx_jax.engine.paged.step_shape import STOP_IDS, StepShape
from pallas_kernels.chunk_attention import query_tiles

_NO_LIMIT = 2**30


class PackedPlan(NamedTuple):
  """A plan on its way to the device.

  Attributes:
    array: what the program takes.
    slots: the slot of each draw, in the order of the program's draws.
    logprobs: whether some draw asks for log-probabilities.
    routing: whether some row or chunk asks for its experts.
  """

  array: np.ndarray
  slots: list[int]
  logprobs: bool
  routing: bool


class _LastDecode(NamedTuple):
  """The last plan of decode rows alone that was packed for a program, with the parts of its array by name."""

  settings: list[RowSettings]
  packed: PackedPlan
  views: dict[str, np.ndarray]


class PlanPacker:
  """Packs plans, and keeps what stays the same from step to step: tables, settings, and who decodes.

  Most steps decode the rows of the step before, one position further. Packing such a step changes a few numbers.
  """

  def __init__(self, slots: int, table: int):
    """For tables of `table` blocks a slot."""
    self._tables = np.full((slots, table), -1, np.int32)
    self._table_of: list[tuple[int, ...]] = [()] * slots
    self._settings_of: list[RowSettings | None] = [None] * slots
    self._floats = np.zeros((slots, 4), np.float32)  # temperature, top_p, min_p, weight
    self._top_k = np.zeros((slots,), np.int32)
    self._keys = np.zeros((slots, 2), np.int32)
    self._stop_ids = np.full((slots, STOP_IDS), -1, np.int32)
    self._logprobs = np.full((slots,), -1, np.int32)
    self._kinds = np.zeros((slots,), np.int32)
    self._last: dict[StepShape, _LastDecode] = {}

  def pack(self, plan: StepPlan, program: StepProgram) -> PackedPlan:
    """The plan for a program that holds it."""
    for part in (*plan.rows, *plan.chunks):
      self._note(part)
    slots, settings = [row.slot for row in plan.rows], [row.settings for row in plan.rows]
    last = None if plan.chunks else self._last.get(program.shape)
    if last is None or last.packed.slots != slots or last.settings != settings:
      packed, views = self._pack_anew(plan, slots, program)
      if plan.chunks:
        return packed
      self._last[program.shape] = last = _LastDecode(settings, packed, views)
    else:
      last.views["draw_index"][: len(slots)] = [row.drawn for row in plan.rows]
      self._pack_places(plan, last.views)
    # The device may read its array at any time, so the one that changes is another.
    return last.packed._replace(array=last.packed.array.copy())

  def _pack_anew(
    self, plan: StepPlan, row_slots: list[int], program: StepProgram
  ) -> tuple[PackedPlan, dict[str, np.ndarray]]:
    """The whole array, and its parts by name."""
    array, views = program.empty()
    count = len(row_slots)
    self._pack_places(plan, views)
    if count:
      views["row_slot"][:count] = row_slots
      views["row_kind"][:count] = self._kinds[row_slots]
      views["row_weight"][:count] = self._floats[row_slots, 3]
    draws = [(index, row.slot, row.drawn) for index, row in enumerate(plan.rows)]
    if plan.chunks:
      draws += self._pack_chunks(plan.chunks, count, views, program.shape.tiles)
    if draws:
      self._pack_draws(draws, views)
    slots, parts = [slot for _, slot, _ in draws], (*plan.rows, *plan.chunks)
    logprobs = bool(slots) and bool((self._logprobs[slots] >= 0).any())
    return PackedPlan(array, slots, logprobs, any(part.settings.return_routing for part in parts)), views

  def _pack_places(self, plan: StepPlan, views: dict[str, np.ndarray]) -> None:
    """What changes in every step: where rows lie, the limit of experts, and whether logits are edited."""
    views["tables"][...] = self._tables
    views["changed"][...] = bool(plan.adjusted)
    views["masked"][...] = bool(plan.masked)
    views["limit"][...] = _NO_LIMIT if plan.limit is None else plan.limit
    if count := len(plan.rows):
      positions = np.array([row.position for row in plan.rows], np.int32)
      views["row_position"][:count] = positions
      views["row_length"][:count] = positions + 1

  def _pack_chunks(
    self, chunks: tuple[Chunk, ...], first: int, views: dict[str, np.ndarray], tiles: int
  ) -> list[tuple[int, int, int]]:
    """Fills in the chunks from row `first` on; returns row, slot and tokens drawn before of those that draw."""
    cut, draws = [], []
    for chunk in chunks:
      count = len(chunk.tokens)
      part = slice(first, first + count)
      views["row_kind"][part] = CHUNK
      views["row_slot"][part] = chunk.slot
      views["row_position"][part] = np.arange(chunk.start, chunk.end)
      # As when the sequence runs alone: its prompt is read at once, and later tokens one by one.
      views["row_length"][part] = np.maximum(np.arange(chunk.start, chunk.end) + 1, chunk.settings.prompt_tokens)
      views["row_token"][part] = chunk.tokens
      if chunk.targets:
        views["row_target"][first : first + len(chunk.targets)] = chunk.targets
      cut.append((first, count, chunk.slot, chunk.start))
      first += count
      if chunk.draws:
        draws.append((first - 1, chunk.slot, chunk.drawn))
    for name, tile in zip(("start", "count", "slot", "position"), query_tiles(cut, tiles), strict=True):
      views[f"tile_{name}"][...] = tile
    return draws

  def _pack_draws(self, draws: list[tuple[int, int, int]], views: dict[str, np.ndarray]) -> None:
    rows, slots, drawn = (list(column) for column in zip(*draws, strict=True))
    count = len(slots)
    views["draw_row"][:count] = rows
    views["draw_slot"][:count] = slots
    views["draw_index"][:count] = drawn
    floats = self._floats[slots]
    for index, name in enumerate(("temperature", "top_p", "min_p")):
      views[f"draw_{name}"][:count] = floats[:, index]
    views["draw_top_k"][:count] = self._top_k[slots]
    views["draw_key"][:count] = self._keys[slots]
    views["draw_stop_ids"][:count] = self._stop_ids[slots]
    views["draw_logprobs"][:count] = self._logprobs[slots]

  def _note(self, part: DecodeRow | Chunk) -> None:
    """Takes over a slot's table and settings, where they are others than before."""
    slot, table, settings = part.slot, part.table, part.settings
    if self._table_of[slot] is not table:
      self._table_of[slot] = table
      self._tables[slot, : len(table)] = table
      self._tables[slot, len(table) :] = -1
    if self._settings_of[slot] is settings:
      return
    self._settings_of[slot] = settings
    sampling = settings.sampling
    self._floats[slot] = sampling.temperature, sampling.top_p, sampling.min_p, settings.weight
    self._top_k[slot] = sampling.top_k
    self._keys[slot] = stream_key(sampling.seed, sampling.stream).view(np.int32)
    # The device ends a row by the first few of its stop tokens. The host knows all of them, a step later.
    stops = sorted(settings.stop_ids)[:STOP_IDS]
    self._stop_ids[slot] = stops + [-1] * (STOP_IDS - len(stops))
    self._logprobs[slot] = -1 if settings.logprobs is None else settings.logprobs
    self._kinds[slot] = EXACT if settings.exact else ADAPTIVE
