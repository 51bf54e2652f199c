"""Step times are fitted, and the experts' budget holds a target in simulation with noise."""

import itertools
import random

import pytest

from lynx_jax.engine.host.chunking import LEAST_CHUNK, Chunking, chunk_length, smallest_program
from lynx_jax.engine.host.load import BudgetRule, ExpertBudget, StepTimes
from lynx_jax.engine.host.step_plan import Program, Programs

LAYERS, EXPERTS, TOP_K = 8, 32, 4
FIXED, BY_EXPERT, BY_TOKEN = 4e-3, 1e-4, 5e-5
PROGRAMS = Programs(decode=(1, 2, 4, 8, 16, 32, 64), mixed=(128, 512, 2048))


def true_seconds(experts: int, tokens: int) -> float:
  return FIXED + BY_EXPERT * experts + BY_TOKEN * tokens


def times() -> StepTimes:
  return StepTimes(experts=LAYERS * EXPERTS, tokens=512)


def test_the_fit_finds_the_times_of_steps_through_noise():
  rng, fit = random.Random(0), times()
  for _ in range(400):
    experts, tokens = rng.randint(32, 256), rng.choice((1, 4, 16, 128, 512))
    fit.observe(experts, tokens, true_seconds(experts, tokens) * rng.gauss(1, 0.05))
  for experts, tokens in ((40, 1), (200, 16), (256, 512)):
    assert fit.predict(experts, tokens) == pytest.approx(true_seconds(experts, tokens), rel=0.05)
  assert fit.seconds_per_expert == pytest.approx(BY_EXPERT, rel=0.1)


def test_the_fit_follows_a_machine_that_slows_down():
  fit = times()
  for slow in (1, 3):
    for step in range(300):
      experts, tokens = 64 + 7 * step % 128, 1 + 5 * step % 64
      fit.observe(experts, tokens, slow * true_seconds(experts, tokens))
    assert fit.predict(100, 16) == pytest.approx(slow * true_seconds(100, 16), rel=0.02)


def test_steps_that_are_all_alike_leave_the_rest_of_the_fit_where_it_was():
  fit = times()
  for step in range(200):
    experts, tokens = 64 + 7 * step % 128, 1 + 5 * step % 64
    fit.observe(experts, tokens, true_seconds(experts, tokens))
  known = fit.seconds_per_expert
  for _ in range(3000):
    fit.observe(128, 16, true_seconds(128, 16))
  assert fit.seconds_per_expert == pytest.approx(known, rel=0.2)


def simulate(
  rule: BudgetRule, seed: int, steps: int = 600, retained=lambda limit: 1.0
) -> tuple[list[float], list[int]]:
  """Seconds and limits of decode steps whose rows want a varying number of experts, at 5 % noise."""
  rng, fit = random.Random(seed), times()
  budget = ExpertBudget(rule, fit)
  seconds, limits = [], []
  rows = 16
  for _ in range(steps):
    rows = min(64, max(4, rows + rng.choice((-1, 0, 0, 1))))
    limit = budget.limit or EXPERTS
    wanted = EXPERTS * (1 - (1 - TOP_K / EXPERTS) ** rows)
    experts = sum(min(limit, round(wanted * rng.uniform(0.95, 1.0))) for _ in range(LAYERS))
    took = true_seconds(experts, rows) * rng.gauss(1, 0.05)
    fit.observe(experts, rows, took)
    budget.observe(experts, rows, took, retained(limit))
    seconds.append(took)
    limits.append(limit)
  return seconds, limits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("target", [0.012, 0.016, 0.022])
def test_the_budget_holds_a_target_within_a_tenth(seed: int, target: float):
  rule = BudgetRule(target=target, layers=LAYERS, experts=EXPERTS, top_k=TOP_K)
  seconds, limits = simulate(rule, seed)
  settled = seconds[100:]
  assert sum(settled) / len(settled) == pytest.approx(target, rel=0.1)
  assert all(sum(settled[start : start + 50]) / 50 < 1.1 * target for start in range(0, len(settled) - 50, 10))
  assert min(limits) >= TOP_K


def test_the_limit_moves_by_a_tenth_at_most_and_never_under_top_k():
  rule = BudgetRule(target=1e-3, layers=LAYERS, experts=EXPERTS, top_k=TOP_K)
  _, limits = simulate(rule, 0)
  assert min(limits) == limits[-1] == TOP_K
  # Limits are whole numbers, so a tenth is rounded.
  assert all(after >= 0.9 * before - 1 for before, after in itertools.pairwise(limits))


def test_rows_that_keep_too_little_raise_the_limit_whatever_the_time():
  rule = BudgetRule(target=1e-3, layers=LAYERS, experts=EXPERTS, top_k=TOP_K, least_retained=0.8)
  _, limits = simulate(rule, 0, retained=lambda limit: min(1.0, limit / 20))
  assert min(limits[100:]) >= 14
  assert sum(limits[100:]) / len(limits[100:]) >= 15


def test_a_target_that_is_met_needs_no_limit():
  rule = BudgetRule(target=1.0, layers=LAYERS, experts=EXPERTS, top_k=TOP_K)
  assert set(simulate(rule, 0)[1]) == {EXPERTS}


@pytest.mark.parametrize(
  ("rows", "wanted", "size"), [(0, 10, 128), (16, 112, 128), (16, 130, 128), (0, 300, 512), (16, 5000, 2048)]
)
def test_larger_programs_are_taken_where_prompts_fill_half_of_them(rows: int, wanted: int, size: int):
  assert Chunking().size(PROGRAMS, rows, wanted) == size


def test_without_a_cost_of_padding_the_smallest_that_holds_all_is_taken():
  free = Chunking(least_fill=0)
  assert free.size(PROGRAMS, 16, 130) == 512
  assert free.size(PROGRAMS, 16, 100) == 128


def test_a_target_bounds_chunks_beside_rows_and_no_others():
  fit = fit_of(1, 16, 128, 512)
  chunking = Chunking(target=1.5 * true_seconds(256, 512), experts=256)
  assert chunking.size(PROGRAMS, 16, 5000, fit) == 512
  assert chunking.size(PROGRAMS, 0, 5000, fit) == 2048
  assert Chunking(target=1e-9, experts=256).size(PROGRAMS, 16, 5000, fit) == 128


def test_where_padding_costs_nothing_a_chunk_is_as_long_as_the_target_allows():
  fit = fit_of(1, 16, 128, 512)
  free = Chunking(target=true_seconds(256, 300), experts=256, least_fill=0)
  assert free.size(PROGRAMS, 16, 5000, fit) == pytest.approx(300, abs=1)
  assert free.size(PROGRAMS, 16, 100, fit) == 128
  hurried = Chunking(target=1e-9, experts=256, least_fill=0)
  assert hurried.size(PROGRAMS, 16, 5000, fit) == 16 + LEAST_CHUNK


def test_steps_grow_at_most_to_twice_what_has_been_timed():
  slow = Chunking(target=1.0, experts=256, least_fill=0)
  assert slow.size(PROGRAMS, 16, 5000, fit_of(16)) == 16 + LEAST_CHUNK
  assert slow.size(PROGRAMS, 16, 5000, fit_of(16, 48)) == 96
  assert slow.size(PROGRAMS, 16, 5000, fit_of(16, 2048)) == 2048


def fit_of(*sizes: int) -> StepTimes:
  fit = times()
  for tokens in sizes * 10:
    fit.observe(256, tokens, true_seconds(256, tokens))
  return fit


def test_programs_and_chunks_by_size():
  assert smallest_program(PROGRAMS, 3, 0) == Program("decode", 4)
  assert smallest_program(PROGRAMS, 64, 65) == Program("mixed", 512)
  assert [chunk_length(20, room, None) for room in (5, 30)] == [5, 20]
  assert [chunk_length(missing, 8, 8) for missing in (20, 5)] == [8, 5]
  assert chunk_length(20, 7, 8) == 0
