"""A packed plan says the same whatever was packed before it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, Program, RowSettings, StepPlan
from lynx_jax.engine.paged.layout import Layout
from lynx_jax.engine.paged.plan_packing import PlanPacker
from lynx_jax.engine.paged.program_set import StepProgram
from lynx_jax.engine.paged.step_arrays import EmptyStep
from lynx_jax.engine.paged.step_shape import StepShape

SLOTS, TABLE = 4, 3
SHAPES = {
  False: StepShape(rows=SLOTS, chunks=False, slots=SLOTS, table=TABLE),
  True: StepShape(rows=32, chunks=True, slots=SLOTS, table=TABLE),
}
NOTHING = Layout([])
PROGRAMS = {
  chunks: StepProgram(shape=shape, run=len, empty=EmptyStep(shape), results=NOTHING, prompts=NOTHING, temporary_bytes=0)
  for chunks, shape in SHAPES.items()
}


def settings_of(number: int) -> RowSettings:
  return RowSettings(
    request_id=str(number), prompt_tokens=20, sequence=number, sampling=Sampling(temperature=number / 2, seed=number),
    stop_ids=frozenset({number}), exact=number % 2 == 0, weight=float(number), logprobs=None if number % 3 else number,
    prompt_logprobs=None, return_routing=number == 5,
  )  # fmt: skip


SETTINGS = [settings_of(number) for number in range(6)]
TABLES = [(0,), (0, 1), (4, 2, 3), (5,)]


@st.composite
def plans(draw):
  """Plans of few sequences, so that the same rows often come again, in other places, slots and company."""
  slots = draw(st.lists(st.integers(0, SLOTS - 1), min_size=1, max_size=SLOTS, unique=True))
  rows, chunks = [], []
  for slot in slots:
    place, drawn = draw(st.integers(0, 40)), draw(st.integers(0, 3))
    table, who = draw(st.sampled_from(TABLES)), SETTINGS[draw(st.sampled_from((slot, slot, slot, 4, 5)))]
    if draw(st.integers(0, 7)):
      rows.append(DecodeRow(slot, place, drawn, table, who))
    else:
      chunks.append(Chunk(slot, place, (7, 8, 9), draw(st.booleans()), drawn, table, who))
  program = Program("mixed", 32) if chunks else Program("decode", SLOTS)
  limit = draw(st.sampled_from((None, 5)))
  return StepPlan(number=0, program=program, rows=tuple(rows), chunks=tuple(chunks), limit=limit)


@given(steps=st.lists(plans(), min_size=2, max_size=8))
@settings(max_examples=200)
def test_a_plan_is_packed_as_by_a_packer_that_saw_no_other(steps):
  packer, arrays = PlanPacker(SLOTS, TABLE), []
  for plan in steps:
    program = PROGRAMS[bool(plan.chunks)]
    got, alone = packer.pack(plan, program), PlanPacker(SLOTS, TABLE).pack(plan, program)
    assert got[1:] == alone[1:]
    found, wanted = (program.empty.layout.views(packed.array) for packed in (got, alone))
    # Tables of slots that do not take part mean nothing.
    part = [row.slot for row in (*plan.rows, *plan.chunks)]
    np.testing.assert_array_equal(found.pop("tables")[part], wanted.pop("tables")[part])
    for name, view in found.items():
      np.testing.assert_array_equal(view, wanted[name], name)
    arrays.append((got.array, got.array.copy()))
  for array, then in arrays:
    np.testing.assert_array_equal(array, then)
