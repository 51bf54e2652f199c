"""Time that the engine's host core takes of a step: plan, commit and text, while all rows decode.

python -m benchmarks.engine_host_time --rows 16,64,256
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Sequence
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
  limits = Limits(
    blocks=rows * -(-context // 32),
    slots=rows,
    context=context,
    programs=Programs(decode=(rows,), mixed=(max(512, 2 * rows),)),
    policy="auto",
  )
  scheduler = Scheduler(limits, decoder=tokenizer)
  words = [0] if tokenizer is None else tokenizer.encode(_TEXT)
  for row in range(rows):
    # No two prompts begin alike.
    scheduler.submit(Request(id=f"{row}", prompt=(row, *range(63)), max_new_tokens=64 + steps))
  fine, logprobs, pending, times = [True] * rows, [-1.0] * rows, False, []
  step = 0
  while len(times) < steps:
    step += 1
    result = StepResult(
      token=[words[(step + row) % len(words)] for row in range(rows)], finite=fine, alive=fine, logprob=logprobs
    )
    begin = time.perf_counter()
    plan = scheduler.plan()
    planned = time.perf_counter()
    if pending:
      scheduler.commit(result)
    done = time.perf_counter()
    pending = True
    if plan is not None and len(plan.rows) == rows:
      times.append((1e6 * (planned - begin), 1e6 * (done - planned)))
  return times


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", default="16,64,256", help="numbers of rows (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=400, help="a repeat (default: %(default)s)")
  parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
  args = parser.parse_args(argv)
  tokenizer = Tokenizer.from_directory(Path(lynx_jax.__file__).parent / "embedded")
  table = Table("rows", "plan", "commit", "commit with text", "all", "share of the target")
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
    table.add_row(str(rows), *(f"{value:.0f} us" for value in (plan, commit, texts, whole)), share)
  console = Console(width=100)
  console.print(table)
  console.print("Medians over steps. A row draws one token a step; its text is that of the embedded model's tokenizer.")
  return 0


if __name__ == "__main__":
  sys.exit(main())
