"""Finds the fastest block sizes of each product on this machine's GPU, at released models' decode sizes.

    python -m benchmarks.kernels.tune --out .work/gpu/tuned.json

The file has the form of those in `pallas_kernels/gpu/tuned`: an entry for each choice that beats the rule by 3 % or
more. Copy it there, under the name that the program prints, and kernels on such a device use it.
"""

import argparse
import dataclasses
import datetime
import functools
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from benchmarks.kernels.decode_program import COMPILED
from benchmarks.kernels.kernel_time import TimedCall, call_seconds
from benchmarks.kernels.op_cases import Case, cases
from benchmarks.kernels.op_times import difference
from pallas_kernels.gates.shapes import MODEL_SHAPES, ModelShape
from pallas_kernels.gpu.blocks import Blocks, Question, by_rule, questions, trying
from pallas_kernels.gpu.tuned_blocks import devices, path_of, table_text, tuned
from pallas_kernels.weights.form import RUN, WORD

_WORTH = 0.97
_OPS = frozenset({"row_matmuls", "row_matmul", "expert_ffn"})
# Of a program's loads in flight, in bytes.
_FEWEST, _USUAL, _MOST = 32 * 1024, 72 * 1024, 144 * 1024
# Numbers of a weight that a thread holds of a step.
_HELD = range(32, 256 + 1)
# Largest difference from the rule's result that another order of sums may cause in bfloat16.
_CLOSE = 0.03
_WON = tuple(blocks for device in devices() for blocks in tuned(device).values())


def candidates(question: Question, rule: Blocks) -> Iterator[Blocks]:
  """The rule's cut, those that won somewhere, and others, the most like them first; all fit the question's sizes."""
  (rows, columns, inner, *_), bits = question[1], _bits(question)
  sizes = itertools.product((16, 32, 64, 128), (64, 128, 256, 512), (1, 2, 4), (3, 4, 5, 6))
  every = [Blocks(columns=columns, inner=step, warps=warps, stages=stages) for columns, step, warps, stages in sizes]
  # Weights of few bits take whole blocks of their tiles, and fewer bytes in flight go as far.
  fewest, usual = _FEWEST * bits / 16, _USUAL * bits / 16
  every = [one for one in every if bits == 16 or one.inner % (RUN * WORD // bits) == 0]
  fitting = [one for one in every if fewest <= _in_flight(one, rows, bits) <= _MOST and _held(one) in _HELD]
  likely = sorted(fitting, key=lambda one: _far(one) + abs(math.log2(_in_flight(one, rows, bits) / usual)))
  for one in dict.fromkeys((rule, *_WON, *likely)):
    if one == rule or (inner % one.inner == 0 and one.columns <= max(16, columns)):
      yield one


def _far(one: Blocks) -> float:
  """Distance to the nearest block sizes that won before: the number of doublings, plus the difference in stages."""

  def apart(won: Blocks) -> float:
    pairs = ((one.columns, won.columns), (one.inner, won.inner), (one.warps, won.warps))
    return sum(abs(math.log2(size / other)) for size, other in pairs) + abs(one.stages - won.stages)

  return min(map(apart, _WON), default=0.0)


def _bits(question: Question) -> int:
  """Of one number of the weights: the last two sizes of a question about weights of few bits are bits and group."""
  kernel, sizes = question
  plain = 3 if kernel == "row_matmul" else 5
  return 16 if len(sizes) == plain else sizes[plain]


def _in_flight(blocks: Blocks, rows: int, bits: int) -> float:
  return (2 * rows + blocks.columns * bits / 8) * blocks.inner * (blocks.stages - 1)


def _held(blocks: Blocks) -> int:
  return blocks.columns * blocks.inner // (32 * blocks.warps)


@dataclasses.dataclass(slots=True)
class _Trial:
  """One cut of one product, the call that has it, or why there is none, and the call's time in seconds."""

  case: Case
  question: Question
  blocks: Blocks
  is_rule: bool
  call: TimedCall | None = None
  error: Exception | None = None
  seconds: float = math.nan

  def compile(self, until: float) -> None:
    """Compiles the call, unless it's later than `until`; the rule's cut in any case."""
    if not self.is_rule and time.monotonic() > until:
      return
    with by_rule(), trying(self.question, self.blocks):
      try:
        self.call = TimedCall(_pallas(self.case), self.case.args, kernel=self.question[0])
      except Exception as error:
        # The compiler's own: too much shared memory, say. The rule itself must work.
        if self.is_rule:
          raise
        self.error = error


def tune(
  shapes: Sequence[ModelShape],
  *,
  rows: int,
  most: int | None = None,
  seconds: float = math.inf,
  progress: Callable[[str], None] = lambda line: None,
) -> dict[Question, tuple[Blocks, float, float]]:
  """For each product of the models' decode steps: the fastest cut, its time and the rule's, in seconds.

  Args:
    shapes: the models'.
    rows: of the decode step.
    most: cuts to try for each product; None tries all.
    seconds: after so long no further cut is compiled; those that are get timed.
    progress: called with a line on what was found.
  """
  until = time.monotonic() + seconds
  with ThreadPoolExecutor(os.cpu_count()) as threads, by_rule():
    drawn = threads.map(lambda shape: [case for case in cases(shape, rows, 16) if case.op in _OPS], shapes)
    by_question = list(_trials([case for of_shape in drawn for case in of_shape], most))
    # Products take turns, so that each has had as many trials when the time runs out.
    every = [trial for turn in itertools.zip_longest(*by_question) for trial in turn if trial is not None]
    list(threads.map(lambda trial: trial.compile(until), every))
  compiled = sum(trial.call is not None for trial in every)
  progress(f"{len(by_question)} products; {compiled} of {len(every)} cuts compiled")
  found = {}
  timed = [list(_right(trials, progress)) for trials in by_question]
  good = [trial for trials in timed for trial in trials]
  for trial, taken in zip(good, call_seconds([trial.call for trial in good if trial.call]), strict=True):
    trial.seconds = taken
  for rule, *others in timed:
    best = min((rule, *others), key=lambda trial: trial.seconds)
    found[rule.question] = (best.blocks, best.seconds, rule.seconds)
    progress(
      f"{rule.question}: {1e6 * rule.seconds:.1f} us by rule, {1e6 * best.seconds:.1f} us by {best.blocks}, the best "
      f"of {1 + len(others)} ({rule.case.what})"
    )
  return found


def _trials(every: Sequence[Case], most: int | None) -> Iterator[list[_Trial]]:
  """For each question that some case's kernels ask, whichever is the first to: cuts to try."""
  seen = set()
  for case in every:
    with questions() as asked:
      jax.eval_shape(_pallas(case), *case.args)
    for question, rule in asked.items():
      if question in seen:
        continue
      seen.add(question)
      tried = itertools.islice(candidates(question, rule), most)
      yield [_Trial(case, question, blocks, is_rule=blocks == rule) for blocks in tried]


def _right(trials: Sequence[_Trial], progress: Callable[[str], None]) -> Iterator[_Trial]:
  """Those that compiled and give what the rule's cut gives."""
  rule = trials[0].call
  assert rule is not None, "compile() raises where the rule's cut doesn't"
  want = rule()
  for trial in trials:
    if trial.call is not None:
      try:
        off = float(difference(trial.call(), want))
      except jax.errors.JaxRuntimeError as error:
        trial.error = error
      else:
        # Not a number is not close, either.
        if off < _CLOSE:
          yield trial
        else:
          progress(f"{trial.question} {trial.blocks}: off the rule's result by {off:.2g}")
    if trial.error is not None:
      progress(f"{trial.question} {trial.blocks}: {(str(trial.error).splitlines() or [repr(trial.error)])[0]}")


def _pallas(case: Case) -> Callable[..., object]:
  return functools.partial(case.fn, implementation="pallas")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=Path, required=True, help="JSON file of what was found")
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--model", action="append", choices=MODEL_SHAPES, help=f"several times (default: {COMPILED})")
  parser.add_argument("--seconds", type=float, default=60, help="to compile cuts in (default: %(default)s)")
  parser.add_argument("--most", type=int, help="cuts for each product (default: all)")
  args = parser.parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu":
    print(f"error: JAX runs on {device.platform} here, not on an NVIDIA GPU", file=sys.stderr)
    return 2
  found = tune(
    [MODEL_SHAPES[name] for name in args.model or COMPILED],
    rows=args.rows,
    most=args.most,
    seconds=args.seconds,
    progress=lambda line: print(line, file=sys.stderr, flush=True),
  )
  how = f"{' '.join(['python -m benchmarks.kernels.tune', *(sys.argv[1:] if argv is None else argv)])}"
  text = table_text(device.device_kind, f"{datetime.date.today()}", how, entries(found))
  args.out.parent.mkdir(parents=True, exist_ok=True)
  args.out.write_text(text)
  print(f"{args.out} may become pallas_kernels/gpu/tuned/{path_of(device.device_kind).name}")
  return 0


def entries(found: dict[Question, tuple[Blocks, float, float]]) -> list[dict[str, Any]]:
  """An entry of the device's file for each choice that beats the rule's by 3 % or more, with both times."""
  return [
    {"kernel": kernel, "sizes": list(sizes), **dataclasses.asdict(best), "us": 1e6 * fast, "rule_us": 1e6 * slow}
    for (kernel, sizes), (best, fast, slow) in found.items()
    if fast < _WORTH * slow
  ]


if __name__ == "__main__":
  sys.exit(main())
