"""Attention of a decode step over a paged cache, beside the same over a dense one, in turns in one run.

    python -m benchmarks.kernels.paged_attention

Both hold the same numbers; the blocks of the paged cache lie in random order. A call attends in several layers one
after the other, each with a cache of its own, so that caches come from memory as they do in a step. Times are medians,
and the ratio is the median of the ratios of pairs that ran one after the other.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kernels.kernel_time import TimedCall
from benchmarks.results import add_result_options, keep
from lynx_jax.testing.random_params import normal
from pallas_kernels import BLOCK, BlockTables, decode_attention, latent_attention
from pallas_kernels.cpu import describe


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
  """The heads of a model, and how many positions a row has.

  Attributes:
    queries: query heads (N).
    groups: key/value heads (G); None for latents, which serve all heads.
    width: of a head (H), or of what is cached of a latent (W).
    positions: of each row (C).
    values: numbers of a latent; unused where there are groups.
  """

  queries: int
  groups: int | None
  width: int
  positions: int
  values: int = 512

  @property
  def shape(self) -> tuple[int, ...]:
    """A row of a dense cache, [G, C, H] or [C, W]."""
    return (*(() if self.groups is None else (self.groups,)), self.positions, self.width)


CASES = {
  "16 heads of 64, 512 positions": Case(queries=16, groups=16, width=64, positions=512),
  "32 heads in 4 groups of 128, 1024 positions": Case(queries=32, groups=4, width=128, positions=1024),
  "16 heads over latents of 576, 1024 positions": Case(queries=16, groups=None, width=576, positions=1024),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PagedTime:
  """One case: median milliseconds of one layer both ways, the median of their ratios, and whether all bits agree."""

  name: str
  dense_ms: float
  paged_ms: float
  ratio: float
  same_bits: bool


def attention_calls(case: Case, *, rows: int, layers: int, dtype: str) -> tuple[TimedCall, TimedCall]:
  """The same attention over dense caches and over a pool, each in `layers` layers one after the other."""
  count = 1 if case.groups is None else 2
  caches = [normal((rows, *case.shape), jnp.dtype(dtype), seed) for seed in range(layers * count)]
  entries = case.positions // BLOCK
  order = np.random.default_rng(0).permutation(rows * entries)

  def pool(cache: jax.Array) -> jax.Array:
    by_block = cache.reshape(*cache.shape[:-2], entries, BLOCK, case.width)
    by_block = jnp.moveaxis(by_block, -3, 1).reshape(rows * entries, *case.shape[:-2], BLOCK, case.width)
    return by_block[np.argsort(order)]

  blocks = BlockTables(jnp.asarray(order.reshape(rows, entries), jnp.int32), jnp.arange(rows, dtype=jnp.int32))
  query = normal((rows, case.queries, case.width), jnp.dtype(dtype), layers * count)
  positions = jnp.full((rows,), case.positions - 1, jnp.int32)
  attend = _attention(case)

  def call(query: jax.Array, positions: jax.Array, blocks: BlockTables | None, *caches: jax.Array) -> list[jax.Array]:
    attended = []
    for layer in range(layers):
      attended.append(attend(query, *caches[layer * count : (layer + 1) * count], positions, blocks=blocks))
      # A layer waits for the one before, as in a model.
      query = query + 0 * attended[-1].sum(axis=-1, keepdims=True)
    return attended

  return (
    TimedCall(call, (query, positions, None, *caches)),
    TimedCall(call, (query, positions, blocks, *map(pool, caches))),
  )


def _attention(case: Case) -> Callable[..., jax.Array]:
  if case.groups is not None:
    return decode_attention
  return functools.partial(latent_attention, value_width=case.values, scale=case.width**-0.5)


def paged_times(
  cases: dict[str, Case], *, rows: int = 16, layers: int = 4, dtype: str = "bfloat16", rounds: int = 41
) -> Iterator[PagedTime]:
  """Yields a case when it is measured."""
  for name, case in cases.items():
    dense, paged = attention_calls(case, rows=rows, layers=layers, dtype=dtype)
    same = all(bool((one == other).all()) for one, other in zip(dense(), paged(), strict=True))
    times = []
    for turn in range(rounds):
      pair = (dense, paged) if turn % 2 == 0 else (paged, dense)
      seconds = {call: _seconds(call) / layers for call in pair}
      times.append((seconds[dense], seconds[paged]))
    yield PagedTime(
      name=name,
      dense_ms=1e3 * statistics.median(first for first, _ in times),
      paged_ms=1e3 * statistics.median(second for _, second in times),
      ratio=statistics.median(second / first for first, second in times),
      same_bits=same,
    )


def _seconds(call: TimedCall) -> float:
  begin = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--rows", type=int, default=16, help="rows of the batch (default: %(default)s)")
  parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="(default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=41, help="turns of both (default: %(default)s)")
  add_result_options(parser)
  args = parser.parse_args(argv)
  table = Table(title=f"Attention of {args.rows} rows in {args.dtype}, ms a layer: {describe()}")
  for heading in ("heads", "dense", "paged", "paged / dense", "same bits"):
    table.add_column(heading, justify="left" if heading == "heads" else "right")
  for found in paged_times(CASES, rows=args.rows, dtype=args.dtype, rounds=args.rounds):
    numbers = f"{found.dense_ms:.3f}", f"{found.paged_ms:.3f}", f"{found.ratio:.3f}"
    table.add_row(found.name, *numbers, "yes" if found.same_bits else "no")
  Console(width=None if sys.stdout.isatty() else 100).print(table)
  about = "Milliseconds of one layer's attention of a decode step, over dense caches and over pools of blocks of 32."
  name = f"paged_attention_{args.dtype}"
  keep(args, table, argv, module="benchmarks.kernels.paged_attention", name=name, about=about)
  return 0


if __name__ == "__main__":
  sys.exit(main())
