"""Finds the fastest cut of each product on this machine's GPU, at released models' decode sizes.

    python -m lynx_jax.bench.tune --out docs/gpu/tuned.json

What it prints are entries for `pallas_kernels.blocks.TUNED`: a line for each that beats the rule by 3 % or more.
"""

import argparse
import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from lynx_jax.bench.op_speed import Case, Timed, cases
from lynx_jax.files import write_json
from pallas_kernels.blocks import Blocks, Question, questions, trying
from pallas_kernels.gates.shapes import MODEL_SHAPES, ModelShape

_WORTH = 0.97
_OPS = frozenset({"row_matmuls", "expert_ffn"})


def candidates(rule: Blocks) -> Iterator[Blocks]:
  """The rule's cut, and cuts around it."""
  yield rule
  for columns, inner, stages in itertools.product((16, 32, 64), (64, 128, 256), (3, 4, 6)):
    blocks = Blocks(columns=columns, inner=min(inner, rule.inner), warps=rule.warps, stages=stages)
    if blocks != rule:
      yield blocks


def tune(
  shape: ModelShape, *, rows: int, most: int | None = None, progress: Callable[[str], None] = lambda line: None
) -> dict[Question, tuple[Blocks, float, float]]:
  """For each product of a model's decode step: the fastest cut, its time and the rule's, in seconds."""
  found = {}
  for case in cases(shape, rows, 1024):
    if case.op not in _OPS:
      continue
    with questions() as asked:
      jax.eval_shape(_pallas(case), *case.args)
    for question, rule in asked.items():
      tried = list(itertools.islice(dict.fromkeys(candidates(rule)), most))
      with ThreadPoolExecutor(os.cpu_count()) as threads:
        compiled = list(threads.map(functools.partial(_compiled, case, question), tried))
      times = {}
      for blocks, loops in zip(tried, compiled, strict=True):
        if isinstance(loops, Timed):
          times[blocks] = loops.seconds()
        elif blocks == rule:
          raise loops
        else:
          # The compiler's own: too much shared memory, say. The rule itself must work.
          progress(f"{question} {blocks}: {str(loops).splitlines()[0]}")
      best = min(times, key=times.__getitem__)
      found[question] = (best, times[best], times[rule])
      progress(f"{shape.name} {question}: {1e6 * times[rule]:.1f} us by rule, {1e6 * times[best]:.1f} us by {best}")
  return found


def _compiled(case: Case, question: Question, blocks: Blocks) -> Timed | Exception:
  with trying(question, blocks):
    try:
      return Timed(_pallas(case), case.args)
    except Exception as error:
      return error


def _pallas(case: Case) -> Callable[..., Any]:
  return functools.partial(case.fn, implementation="pallas")


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--out", type=Path, required=True, help="JSON file of what was found")
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--model", action="append", choices=MODEL_SHAPES, help="whose sizes; several times for several")
  args = parser.parse_args(argv)
  device = jax.devices()[0]
  if device.platform != "gpu":
    print(f"error: JAX runs on {device.platform} here, not on an NVIDIA GPU", file=sys.stderr)
    return 2
  found = {}
  for name in args.model or MODEL_SHAPES:
    found |= tune(MODEL_SHAPES[name], rows=args.rows, progress=lambda line: print(line, file=sys.stderr, flush=True))
  facts = [
    {"kernel": kernel, "sizes": sizes, "blocks": repr(best), "us": 1e6 * fast, "rule_us": 1e6 * slow}
    for (kernel, sizes), (best, fast, slow) in found.items()
  ]
  args.out.parent.mkdir(parents=True, exist_ok=True)
  write_json(args.out, {"device": device.device_kind, "found": facts})
  for question, (best, fast, slow) in found.items():
    if fast < _WORTH * slow:
      print(f"  {question!r}: {best!r},")
  return 0


if __name__ == "__main__":
  sys.exit(main())
