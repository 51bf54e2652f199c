"""Time that the engine's host core takes of a step: plan, commit and text, while all rows decode and under a load.

python -m benchmarks.engine_host_time --rows 16,64,256
"""

import argparse
import gc
import itertools
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

import lynx_jax
from lynx_jax.engine.host.limits import Limits
from lynx_jax.engine.host.request import Request
from lynx_jax.engine.host.scheduler import Scheduler
from lynx_jax.engine.host.step_plan import Programs, StepResult
from lynx_jax.text.tokenizer import Tokenizer

TARGETS = {16: 150.0, 64: 500.0}
"""Microseconds that a step may take."""
_TEXT = "The library was quiet in the morning, and the old clock on the wall told nobody in particular the time. "


def step_times(rows: int, steps: int, tokenizer: Tokenizer | None) -> list[tuple[float, float]]:
  """Microseconds of `plan` and of `commit` in each step of `rows` rows that decode, with one step in flight."""
  context = 128 + steps
  scheduler = Scheduler(_limits(rows, rows * -(-context // 32), context), decoder=tokenizer)
  for row in range(rows):
    # No two prompts begin alike.
    scheduler.submit(Request(id=f"{row}", prompt=(row, *range(63)), max_new_tokens=64 + steps))
  return [
    (plan, commit)
    for plan, commit, tokens in itertools.islice(_run(scheduler, rows, tokenizer), 2 * steps)
    if tokens == rows
  ][:steps]


def load_times(rows: int, requests: int, tokenizer: Tokenizer | None) -> tuple[list[float], float]:
  """Microseconds of each step of a whole load, and the mean share of allocated positions that was not written.

  Prompts have 16 to 512 tokens and outputs 16 to 256. All requests are there at once, so slots are never empty.
  """
  rng = random.Random(0)
  scheduler = Scheduler(_limits(rows, rows * 24, 768), decoder=tokenizer)
  for index in range(requests):
    prompt = (index, *(rng.randrange(4096) for _ in range(rng.randint(15, 511))))
    scheduler.submit(Request(id=f"{index}", prompt=prompt, max_new_tokens=rng.randint(16, 256)))
  times, wastes = [], []
  for plan, commit, _ in _run(scheduler, rows, tokenizer):
    times.append(plan + commit)
    stats = scheduler.stats()
    if stats.running:
      wastes.append(stats.waste)
  return times, statistics.mean(wastes)


def _limits(rows: int, blocks: int, context: int) -> Limits:
  programs = Programs(decode=(rows,), mixed=(max(512, 2 * rows),))
  return Limits(blocks=blocks, slots=rows, context=context, programs=programs, policy="auto")


def _run(scheduler: Scheduler, rows: int, tokenizer: Tokenizer | None) -> Iterator[tuple[float, float, int]]:
  """Plans and commits until nothing is left: microseconds of both, and the tokens of the step that was planned."""
  words = [0] if tokenizer is None else tokenizer.encode(_TEXT)
  fine, logprobs = [True] * rows, [-1.0] * rows
  for step in itertools.count():
    tokens = [words[(step + row) % len(words)] for row in range(rows)]
    result = StepResult(token=tokens, finite=fine, alive=fine, logprob=logprobs)
    in_flight = scheduler.stats().in_flight
    begin = time.thread_time()
    plan = scheduler.plan()
    planned = time.thread_time()
    if in_flight:
      scheduler.commit(result)
    elif plan is None:
      return
    done = time.thread_time()
    yield 1e6 * (planned - begin), 1e6 * (done - planned), 0 if plan is None else plan.tokens


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", default="16,64,256", help="numbers of rows (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=400, help="a repeat (default: %(default)s)")
  parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
  args = parser.parse_args(argv)
  tokenizer = Tokenizer.from_directory(Path(lynx_jax.__file__).parent / "embedded")
  table = Table("rows", "plan", "commit", "commit with text", "all", "share of the target", "load", "KV waste")
  for rows in map(int, args.rows.split(",")):
    plain, text = [], []
    for _ in range(args.repeats):
      gc.collect()
      plain += step_times(rows, args.steps, None)
      text += step_times(rows, args.steps, tokenizer)
    plan, commit = (statistics.median(each) for each in zip(*plain, strict=True))
    texts = statistics.median(commit for _, commit in text)
    whole = statistics.median(sum(pair) for pair in text)
    share = f"{whole / TARGETS[rows]:.0%} of {TARGETS[rows] / 1e3:g} ms" if rows in TARGETS else ""
    loaded, waste = load_times(rows, 4 * rows, tokenizer)
    columns = [f"{value:.0f} us" for value in (plan, commit, texts, whole)]
    table.add_row(str(rows), *columns, share, f"{statistics.mean(loaded):.0f} us", f"{waste:.1%}")
  console = Console(width=110)
  console.print(table)
  console.print(
    "Processor time. Medians over steps in which each row draws a token, with text by the embedded model's tokenizer. "
    "Load: mean over the steps of four requests a row, with prompts of 16 to 512 tokens and outputs of 16 to 256."
  )
  return 0


if __name__ == "__main__":
  sys.exit(main())
