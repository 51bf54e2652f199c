"""Decode speed of two checkouts of this repository in one run, in turns: what a change costs or gains.

    python -m lynx_jax.testing.random_checkpoint MODEL
    python -m benchmarks.in_turns OLD_CHECKOUT NEW_CHECKOUT --model MODEL --batch 1,16

On a shared machine times move by a factor of two within minutes, so two runs one after the other say little. Here each
checkout loads the model in a process of its own, and stretches of decode steps alternate between the two: old, new,
new, old. Each such block gives a ratio of times in which a drift of the machine cancels. Native code must be built in
both.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

WORKER = Path(__file__).with_name("in_turns_worker.py")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
  """Decode steps of two checkouts at one batch size.

  Attributes:
    batch: rows.
    old_ms: median time of a step of the old checkout.
    new_ms: the same of the new one.
    ratio: new over old: the ratio of the two medians. More than 1 is slower.
    low: lower end of the central 95 % of that ratio, by resampling blocks.
    high: its upper end.
  """

  batch: int
  old_ms: float
  new_ms: float
  ratio: float
  low: float
  high: float


class Worker:
  """A process that has loaded the model with the code of one checkout, and times decode steps when asked."""

  def __init__(self, checkout: Path, settings: dict[str, object]):
    """Starts loading; `ready` waits for it."""
    self.checkout = checkout.resolve()
    environment = os.environ | {"PYTHONPATH": str(self.checkout)}
    command = [sys.executable, "-P", str(WORKER), json.dumps(settings)]
    self._process = subprocess.Popen(
      command, cwd=self.checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

  def __enter__(self) -> "Worker":
    return self

  def __exit__(
    self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
  ) -> None:
    self._process.kill()
    self._process.communicate()

  def ready(self) -> str:
    """Waits until the model is loaded and compiled; returns what native library runs, or that none does.

    Raises:
      RuntimeError: the process ended, or runs code of another checkout than its own.
    """
    found = self._answer()
    for name in ("package", "library"):
      path = found[name]
      if path is not None and not Path(path).resolve().is_relative_to(self.checkout):
        raise RuntimeError(f"the process of {self.checkout} runs {path}: build native code there, and check PYTHONPATH")
    return found["library"] or "no native code"

  def seconds(self, batch: int) -> float:
    """Time of one stretch of decode steps, divided by their number."""
    assert self._process.stdin is not None
    self._process.stdin.write(f"{batch}\n")
    self._process.stdin.flush()
    return float(self._answer()["seconds"])

  def _answer(self) -> dict:
    assert self._process.stdout is not None
    line = self._process.stdout.readline()
    if not line:
      raise RuntimeError(f"the process of {self.checkout} ended with code {self._process.wait()}")
    return json.loads(line)


def in_turns(
  old: Path,
  new: Path,
  model: Path,
  batches: Sequence[int],
  *,
  steps: int = 16,
  blocks: int = 12,
  policy: str = "topk",
  progress: Callable[[str], None] = lambda message: None,
) -> Iterator[Comparison]:
  """Compares two checkouts at each batch size.

  Args:
    old: a checkout, with native code built in it.
    new: another, or the same, which shows the noise.
    model: a checkpoint that both can load.
    batches: numbers of rows.
    steps: decode steps of a stretch. Every stretch feeds the same tokens from the same state.
    blocks: of four stretches: old, new, new, old.
    policy: which experts a batch may use, as text.
    progress: called with a line on what is being done.

  Raises:
    RuntimeError: a process failed, or one of them runs native code and the other does not.
  """
  settings = {"model": str(model.resolve()), "batches": list(batches), "steps": steps, "policy": policy}
  with contextlib.ExitStack() as stack:
    # One after the other: compiling in both at once would need memory and time of both.
    workers = []
    for checkout in (old, new):
      workers.append(stack.enter_context(Worker(checkout, settings)))
      progress(f"{checkout}: {workers[-1].ready()}")
    first, second = workers
    for batch in batches:
      times = []
      for block in range(blocks):
        a, b, c, d = (worker.seconds(batch) for worker in (first, second, second, first))
        times.append(((a + d) / 2, (b + c) / 2))
        progress(f"batch {batch}, block {block + 1} of {blocks}: {times[-1][1] / times[-1][0]:.3f}")
      yield compare(batch, np.array(times))


def compare(batch: int, times: np.ndarray) -> Comparison:
  """The medians of blocks' times [blocks, (old, new)] in seconds, and their ratio with its interval."""
  drawn = np.random.default_rng(0).integers(len(times), size=(2000, len(times)))
  medians = np.median(times[drawn], axis=1)
  low, high = np.quantile(medians[:, 1] / medians[:, 0], (0.025, 0.975))
  old, new = np.median(times, axis=0)
  return Comparison(
    batch=batch, old_ms=1e3 * old, new_ms=1e3 * new, ratio=float(new / old), low=float(low), high=float(high)
  )


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.in_turns", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("old", type=Path, help="a checkout of this repository, native code built in it")
  parser.add_argument("new", type=Path, help="another")
  parser.add_argument("--model", type=Path, required=True, help="a checkpoint that both can load")
  parser.add_argument("--batch", default="1,16", help="numbers of rows (default: %(default)s)")
  parser.add_argument("--policy", default="topk", help="which experts a batch may use (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=16, help="decode steps of a stretch (default: %(default)s)")
  parser.add_argument("--blocks", type=int, default=12, help="blocks of four stretches (default: %(default)s)")
  args = parser.parse_args(argv)
  batches = [int(batch) for batch in args.batch.split(",")]

  def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)

  print("| batch | old, ms a step | new, ms a step | new / old | 95 % |\n|---|---|---|---|---|")
  for row in in_turns(
    args.old, args.new, args.model, batches, steps=args.steps, blocks=args.blocks, policy=args.policy, progress=say
  ):
    print(
      f"| {row.batch} | {row.old_ms:.2f} | {row.new_ms:.2f} | {row.ratio:.3f} | {row.low:.3f} to {row.high:.3f} |",
      flush=True,
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
