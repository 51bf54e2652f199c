"""Plans that no scheduler would make: random sequences, chunks and blocks, to judge a step by its results alone."""

import dataclasses

import numpy as np

from lynx_jax.engine.host.sampling import Sampling
from lynx_jax.engine.host.step_plan import Chunk, DecodeRow, Program, RowSettings, StepPlan
from lynx_jax.engine.paged.executor import Executor

BLOCK = 32


@dataclasses.dataclass
class Asked:
  """What one sequence asks for."""

  prompt: list[int]
  new: int
  sampling: Sampling = Sampling()  # noqa: RUF009 (frozen)
  exact: bool = True
  stop_ids: frozenset[int] = frozenset()
  logprobs: int | None = None
  prompt_logprobs: int | None = None
  return_routing: bool = False


@dataclasses.dataclass
class Running:
  """A sequence in its slot."""

  asked: Asked
  slot: int
  settings: RowSettings
  table: tuple[int, ...]
  done: int = 0
  output: list[int] = dataclasses.field(default_factory=list)
  logprobs: list[float] = dataclasses.field(default_factory=list)
  top: list = dataclasses.field(default_factory=list)
  prompt_logprobs: list = dataclasses.field(default_factory=list)
  routing: list = dataclasses.field(default_factory=list)

  @property
  def tokens(self) -> list[int]:
    return self.asked.prompt + self.output


def run_randomly(executor: Executor, asked: list[Asked], seed: int, *, longest_chunk: int = 40) -> list[Running]:
  """Runs all sequences to their ends in random company; returns them in order."""
  random = np.random.default_rng(seed)
  free = random.permutation(executor.blocks).tolist()
  slots = random.permutation(executor.slots).tolist()
  running = []
  for number, one in enumerate(asked):
    blocks = -(-(len(one.prompt) + one.new) // BLOCK)
    table, free = tuple(free[:blocks]), free[blocks:]
    settings = RowSettings(
      request_id=str(number),
      prompt_tokens=len(one.prompt),
      sequence=number,
      sampling=one.sampling,
      stop_ids=one.stop_ids,
      exact=one.exact,
      weight=1.0,
      logprobs=one.logprobs,
      prompt_logprobs=one.prompt_logprobs,
      return_routing=one.return_routing,
    )
    running.append(Running(one, slots.pop(), settings, table))
  number = 0
  while going := [one for one in running if not _ended(one)]:
    picked = [one for one in going if random.random() < 0.7] or going[:1]
    plan = _plan(picked, number, random, longest_chunk)
    result, _ = executor.fetch(executor.dispatch(plan))
    _take(result, plan, {one.slot: one for one in picked})
    number += 1
  return running


def _ended(one: Running) -> bool:
  return len(one.output) >= one.asked.new or bool(one.output and one.output[-1] in one.asked.stop_ids)


def _plan(picked: list[Running], number: int, random: np.random.Generator, longest: int) -> StepPlan:
  rows, chunks = [], []
  for one in picked:
    unread = len(one.tokens) - one.done
    if one.output and unread == 1:
      rows.append(DecodeRow(one.slot, one.done, len(one.output), one.table, one.settings))
      continue
    count = int(random.integers(1, min(unread, longest) + 1))
    part, end = one.asked.prompt[one.done : one.done + count], one.done + count
    targets = one.asked.prompt[one.done + 1 : end + 1] if one.asked.prompt_logprobs is not None else []
    chunks.append(
      Chunk(one.slot, one.done, tuple(part), end == len(one.tokens), len(one.output), one.table, one.settings,
            tuple(targets))
    )  # fmt: skip
  tokens = len(rows) + sum(len(chunk.tokens) for chunk in chunks)
  program = Program("mixed" if chunks else "decode", tokens)
  return StepPlan(number=number, program=program, rows=tuple(rows), chunks=tuple(chunks))


def _take(result, plan: StepPlan, by_slot: dict[int, Running]) -> None:
  for part in (*plan.rows, *plan.chunks):
    one = by_slot[part.slot]
    one.done = part.end if isinstance(part, Chunk) else part.position + 1
    one.routing += result.routing.get(part.slot, [])
    one.prompt_logprobs += result.prompt_logprobs.get(part.slot, [])
    if not isinstance(part, Chunk) or part.draws:
      assert result.finite[part.slot]
      token = result.token[part.slot]
      assert result.alive[part.slot] == (token not in one.asked.stop_ids)
      one.output.append(token)
      if one.asked.logprobs is not None:
        one.logprobs.append(result.logprob[part.slot])
      one.top.append(result.top.get(part.slot))
