"""A server at overload for long: whether its goodput holds, and its memory stays flat.

    python -m benchmarks.server_soak --minutes 30

First comes the peak: the same requests from more and more clients, each of which waits for its answer before it asks
again. A good request ends within the objectives, which are multiples of the calm times. Then requests arrive at random,
at twice the rate of the peak, for all of the time; the queue is short, and who finds it full is refused at once. Each
minute's goodput stands beside the peak, and the server's memory beside what it held at the end of the first minutes.
"""

import argparse
import asyncio
import dataclasses
import itertools
import sys
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.served_model import lynx_server, resident_bytes
from lynx_jax.bench.arrivals import AllAtOnce, Poisson
from lynx_jax.bench.serve.asked import Asked, random_bodies, random_lengths, timed
from lynx_jax.bench.serve.client import Observed, send_load
from lynx_jax.bench.serve.figures import ServeFigures, serve_figures

LEAST_GOODPUT, MOST_GROWTH = 0.9, 1.05
_PROMPT, _OUTPUT, _IDS = (16, 128), (16, 64), (256, 4095)
_WARM_MINUTES = 3
_SECONDS_APART = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
  """What the server does at the best.

  Attributes:
    clients: that ask at once.
    rate: good requests a second.
    objectives: what a good request keeps, in milliseconds.
  """

  clients: int
  rate: float
  objectives: dict[str, float]


def requests(count: int, rate: float | None, seed: int) -> list[Asked]:
  """Random requests, at random times of that mean rate a second, or all there at the start."""
  random = np.random.default_rng(seed)
  bodies = random_bodies(random_lengths(count, _PROMPT, _OUTPUT, random), _IDS, random)
  return timed(bodies, AllAtOnce() if rate is None else Poisson(rate=rate), random, {})


def find_peak(url: str, slots: int, seconds: float) -> Peak:
  """The best goodput over some numbers of clients, each tried for about so many seconds."""

  def load(clients: int, count: int, objectives: dict[str, float], seed: int) -> ServeFigures:
    asked = requests(count, None, seed)
    return serve_figures(asyncio.run(send_load(url, asked, at_once=clients)), objectives)

  calm = load(slots, 8 * slots, {}, seed=1)
  assert calm.tpot_ms is not None
  # The queue holds a batch and a half, so a request that is taken waits for about as much before it runs.
  objectives = {"ttft": 4e3 * slots / calm.requests_per_second, "tpot": 3 * calm.tpot_ms.p50}
  count = max(slots, round(seconds * calm.requests_per_second))
  tried = [(load(clients, count, objectives, seed=clients), clients) for clients in (slots, 3 * slots // 2, 2 * slots)]
  best, clients = max(tried, key=lambda pair: pair[0].goodput or 0.0)
  assert best.goodput
  return Peak(clients=clients, rate=best.goodput, objectives=objectives)


async def overload(
  url: str, pid: int, asked: Sequence[Asked], seconds: float
) -> tuple[list[Observed], list[tuple[float, int]]]:
  """Sends the load; returns what each request got, and the server's memory over time, in seconds and bytes."""
  memory, begin = [], time.perf_counter()

  async def watch() -> None:
    while True:
      memory.append((time.perf_counter() - begin, resident_bytes(pid)))
      await asyncio.sleep(_SECONDS_APART)

  watching = asyncio.create_task(watch())
  found = await send_load(url, asked)
  watching.cancel()
  return found, [each for each in memory if each[0] <= seconds]


def by_minute(observed: Sequence[Observed], objectives: dict[str, float], minutes: int) -> list[ServeFigures]:
  """The figures of each minute, by when the answers ended."""
  groups: list[list[Observed]] = [[] for _ in range(minutes)]
  for one in observed:
    if (minute := int(one.ended // 60)) < minutes:
      groups[minute].append(one)
  return [serve_figures(group, objectives) for group in groups]


def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; returns the exit code, 1 if goodput fell or memory grew."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--minutes", type=int, default=30, help="of overload (default: %(default)s)")
  parser.add_argument("--over", type=float, default=2.0, help="arrivals, as a multiple of the peak (default: 2)")
  parser.add_argument("--peak-seconds", type=float, default=45.0, help="for each number of clients (default: 45)")
  parser.add_argument("--model", help="checkpoint; the embedded model by default")
  parser.add_argument("--policy", default="auto", help="(default: %(default)s)")
  parser.add_argument("--slots", type=int, default=16, help="(default: %(default)s)")
  args = parser.parse_args(argv)
  options = [*([args.model] if args.model else []), "--policy", args.policy, "--slots", str(args.slots)]
  with lynx_server(*options, "--context", "256", "--max-waiting", str(3 * args.slots // 2)) as (url, pid):
    peak = find_peak(url, args.slots, args.peak_seconds)
    asked = requests(round(60 * args.minutes * args.over * peak.rate), args.over * peak.rate, seed=0)
    observed, memory = asyncio.run(overload(url, pid, asked, 60.0 * args.minutes))
  return report(peak, by_minute(observed, peak.objectives, args.minutes), memory)


def report(peak: Peak, minutes: Sequence[ServeFigures], memory: Sequence[tuple[float, int]]) -> int:
  """Prints what was found; returns the exit code."""
  limits = ", ".join(f"{name} at most {most:.0f} ms" for name, most in peak.objectives.items())
  table = Table(title=f"Overload; peak {peak.rate:.2f} good requests/s with {peak.clients} clients; good: {limits}")
  for column in ("minute", "arrived", "refused", "good/s", "of the peak", "memory, MB"):
    table.add_column(column, justify="right")
  for index, found in enumerate(minutes):
    held = max((size for at, size in memory if at // 60 == index), default=0)
    rate = (found.good or 0) / 60
    table.add_row(
      str(index + 1), str(found.requests), str(sum(found.failed.values())), f"{rate:.2f}", f"{rate / peak.rate:.2f}",
      f"{held / 1e6:.0f}",
    )  # fmt: skip
  Console(width=None if sys.stdout.isatty() else 120).print(table)
  warm = min(_WARM_MINUTES, len(minutes) - 1)
  steady = list(itertools.islice(minutes, warm, None))
  goodput = sum(found.good or 0 for found in steady) / (60 * len(steady)) / peak.rate
  held = [size for at, size in memory if at < 60 * warm] or [memory[0][1]]
  growth = memory[-1][1] / max(held)
  kinds = sorted({kind for found in minutes for kind in found.failed})
  print(f"goodput after the first {warm} minutes: {goodput:.2f} of the peak (at least {LEAST_GOODPUT})")
  print(f"memory at the end: {growth:.3f} of the most in the first {warm} minutes (at most {MOST_GROWTH})")
  print("refusals: " + ("; ".join(kinds) or "none"))
  return int(goodput < LEAST_GOODPUT or growth > MOST_GROWTH)


if __name__ == "__main__":
  sys.exit(main())
