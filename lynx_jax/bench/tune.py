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
import jax.numpy as jnp

from lynx_jax.bench.op_speed import Case, Timed, cases
from lynx_jax.files import write_json
from pallas_kernels import row_matmul
from pallas_kernels.blocks import Blocks, Question, questions, trying
from pallas_kernels.gates.shapes import MODEL_SHAPES, ModelShape

_WORTH = 0.97
_OPS = frozenset({"row_matmuls", "row_matmul", "expert_ffn"})
# Bytes of a program's loads.
_IN_FLIGHT = range(32 * 1024, 128 * 1024 + 1)


def candidates(rule: Blocks, inner: int) -> Iterator[Blocks]:
  """The rule's cut, and others whose steps divide `inner` and whose loads in flight are neither few nor too many."""
  yield rule
  for columns, step, warps, stages in itertools.product((16, 32, 64), (64, 128, 256, 512), (1, 2, 4), (3, 4, 6)):
    blocks = Blocks(columns=columns, inner=step, warps=warps, stages=stages)
    if inner % step == 0 and 2 * (16 + columns) * step * (stages - 1) in _IN_FLIGHT and blocks != rule:
      yield blocks


def tune(
  shape: ModelShape, *, rows: int, most: int | None = None, progress: Callable[[str], None] = lambda line: None
) -> dict[Question, tuple[Blocks, float, float]]:
  """For each product of a model's decode step: the fastest cut, its time and the rule's, in seconds."""
  found = {}
  for case in (*cases(shape, rows, 1024), *_other_products(shape, rows)):
    if case.op not in _OPS:
      continue
    with questions() as asked:
      jax.eval_shape(_pallas(case), *case.args)
    for question, rule in asked.items():
      tried = list(itertools.islice(candidates(rule, question[1][2]), most))
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


def _other_products(shape: ModelShape, rows: int) -> Iterator[Case]:
  """The products of a decode step that `cases` leaves out: the router's and the one after attention."""
  keys = iter(jax.random.split(jax.random.key(1), 5))

  def draw(*sizes: int) -> jax.Array:
    return jax.random.normal(next(keys), sizes, jnp.bfloat16)

  def route(x: jax.Array, weight: jax.Array, scale: jax.Array, *, implementation: str | None) -> jax.Array:
    options = {"norm_scale": scale, "norm_eps": 1e-6, "dtype": "float32"}
    return row_matmul(x, weight, implementation=implementation, **options)

  def project(mixed: jax.Array, weight: jax.Array, x: jax.Array, *, implementation: str | None) -> jax.Array:
    return row_matmul(mixed, weight, residual_TO=x, implementation=implementation)

  x, inner = draw(rows, shape.width), shape.heads * shape.head_dim
  router, output = draw(shape.experts, shape.width), draw(shape.width, inner)
  for what, fn, args in (
    ("router", route, (x, router, draw(shape.width))),
    ("output", project, (draw(rows, inner), output, x)),
  ):
    yield Case(op="row_matmul", what=f"T={rows}, {what}", fn=fn, args=args, moved=args[1].nbytes)


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
