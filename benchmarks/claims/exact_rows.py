"""What a batch still saves when one of its rows insists on the model's own experts.

    python -m benchmarks.claims.exact_rows --policy auto --policy lynx:alpha=3,beta=2

Decodes the same rows twice on an engine: all of them adaptive, and one of them exact. An exact row's experts are read
anyway, so they are free for the others. The saving is the experts that a step leaves out of those that the model's own
routing would read.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence

import numpy as np

import lynx_jax
from lynx_jax.engine.core import EngineCore
from lynx_jax.models.params import Params
from lynx_jax.routing import RoutingPolicy, parse_policy

LEAST_KEPT = 0.8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
  """One policy's saving, in distinct experts a step and layer.

  Attributes:
    policy: its text.
    own: read by the model's own routing.
    adaptive: read when all rows are adaptive.
    own_beside: read by the model's own routing in the batch with an exact row.
    mixed: read when one row is exact.
  """

  policy: str
  own: float
  adaptive: float
  own_beside: float
  mixed: float

  @property
  def kept(self) -> float:
    """The saving beside an exact row, as a share of the saving without."""
    return (self.own_beside - self.mixed) / (self.own - self.adaptive)


def measure(params: Params, policy: RoutingPolicy, text: str, *, rows: int, steps: int) -> Kept:
  """Decodes `rows` rows for so many steps, without and with an exact row among them."""
  own, adaptive = _experts(params, policy, rows, steps, exact=0)
  own_beside, mixed = _experts(params, policy, rows, steps, exact=1)
  return Kept(policy=text, own=own, adaptive=adaptive, own_beside=own_beside, mixed=mixed)


def _experts(params: Params, policy: RoutingPolicy, rows: int, steps: int, *, exact: int) -> tuple[float, float]:
  """Mean distinct experts a step and layer: of the model's own routing, and read."""
  settings = lynx_jax.EngineSettings(
    slots=rows, context=256, mixed=(128,), policy=policy, stats=True, prompts_first=True
  )
  core = EngineCore(params, settings)
  for row, prompt in enumerate(_prompts(params, rows)):
    core.submit(
      lynx_jax.Request(
        id=str(row), prompt=prompt, max_new_tokens=steps + 1, ignore_eos=True,
        sampling=lynx_jax.Sampling(temperature=0.8, seed=row),
        quality="exact" if row < exact else "standard",
      )
    )  # fmt: skip
  core.run()
  sums = core.log.decoding
  return float(np.mean(sums.own_active) / sums.steps), float(np.mean(sums.active) / sums.steps)


def _prompts(params: Params, rows: int) -> Iterator[tuple[int, ...]]:
  """Short prompts of random tokens, the same in every call."""
  random = np.random.default_rng(0)
  for _ in range(rows):
    yield tuple(random.integers(params.spec.vocab, size=8).tolist())


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns 1 if a policy keeps less than four fifths of its saving."""
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.claims.exact_rows",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--model", help="directory of a checkpoint; the embedded model if not given")
  parser.add_argument("--policy", action="append", help="a policy as text; repeat it for several (default: auto)")
  parser.add_argument("--rows", type=int, default=16, help="rows of the batch (default: %(default)s)")
  parser.add_argument("--steps", type=int, default=64, help="decode steps (default: %(default)s)")
  args = parser.parse_args(argv)
  params, ok = lynx_jax.load(args.model), True
  print("| policy | own | adaptive | own, one exact | one exact | saving kept |\n|---|---|---|---|---|---|")
  for text in args.policy or ["auto"]:
    found = measure(params, parse_policy(text), text, rows=args.rows, steps=args.steps)
    ok &= found.kept >= LEAST_KEPT
    print(
      f"| {text} | {found.own:.2f} | {found.adaptive:.2f} | {found.own_beside:.2f} | {found.mixed:.2f} "
      f"| {found.kept:.0%} |"
    )
  return 0 if ok else 1


if __name__ == "__main__":
  sys.exit(main())
