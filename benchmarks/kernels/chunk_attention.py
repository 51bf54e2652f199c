"""Attention of a whole prompt through `chunk_attention`, beside plain JAX's causal attention, in turns in one run.

    python -m benchmarks.kernels.chunk_attention --length 512

Both see the same queries, keys and values. `chunk_attention` reads them from blocks in random order, in tiles of 16
queries. Times are medians, and the ratio is the median of the ratios of pairs that ran one after the other.
"""

import argparse
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.kernels.kernel_time import TimedCall
from benchmarks.kernels.op_times import difference
from lynx_jax.models.causal_attention import causal_attention
from lynx_jax.testing.random_params import normal
from pallas_kernels import chunk_attention
from pallas_kernels.block_tables import BLOCK
from pallas_kernels.chunk_attention import most_query_tiles, query_tiles
from pallas_kernels.cpu import describe


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
  """The heads of a model: of queries, of keys and values, and their widths; `latent` keys begin with the values."""

  queries: int
  groups: int
  width: int
  latent: int | None = None


HEADS = {
  "16 x 64": Heads(queries=16, groups=16, width=64),
  "16 x 128 (OLMoE)": Heads(queries=16, groups=16, width=128),
  "64 / 8 x 64 (gpt-oss)": Heads(queries=64, groups=8, width=64),
  "32 / 4 x 128 (Qwen3)": Heads(queries=32, groups=4, width=128),
  "16 x 576, latent (DeepSeek-V2-Lite)": Heads(queries=16, groups=1, width=576, latent=512),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PromptTime:
  """One set of heads: median times of both, the median of their ratios, and how far their results are apart."""

  heads: str
  plain_ms: float
  chunk_ms: float
  speedup: float
  error: float


def prompt_calls(heads: Heads, length: int, dtype: str) -> tuple[TimedCall, TimedCall]:
  """Plain causal attention of one prompt, and the same from a paged cache; both give [1, L, N, H]."""
  shape = (1, heads.groups, -(-length // BLOCK) * BLOCK, heads.width)
  query = normal((1, heads.queries, length, heads.width), jnp.dtype(dtype), 0)
  key, value = (normal(shape, jnp.dtype(dtype), seed) for seed in (1, 2))
  if heads.latent is not None:
    value = key[..., : heads.latent]
  options = {"value_width": heads.latent, "scale": heads.width**-0.5}
  table = np.random.default_rng(0).permutation(shape[2] // BLOCK).astype(np.int32)

  def blocks(cache: jax.Array) -> jax.Array:
    by_place = cache.reshape(heads.groups, -1, BLOCK, cache.shape[3]).swapaxes(0, 1)
    return by_place[np.argsort(table)]

  def attend(query: jax.Array, key: jax.Array, value: jax.Array | None, table: jax.Array) -> jax.Array:
    return chunk_attention(query, key, value, tiles, table, **options)[None]

  tiles = query_tiles([(0, length, 0, 0)], most_query_tiles(length, 1))
  plain = functools.partial(causal_attention, window=None)
  plain_args = query, key[:, :, :length], value[:, :, :length], jnp.full((1,), length)
  pools = blocks(key), None if heads.latent else blocks(value)
  chunk_args = query[0].swapaxes(0, 1), *pools, jnp.asarray(table[None])
  return TimedCall(plain, plain_args), TimedCall(attend, chunk_args)


def prompt_times(names: Sequence[str], *, length: int, dtype: str, rounds: int) -> Iterator[PromptTime]:
  """Yields a set of heads when it is measured."""
  for name in names:
    plain, chunk = prompt_calls(HEADS[name], length, dtype)
    error = float(difference(chunk(), plain()))
    times = []
    for turn in range(rounds):
      pair = (plain, chunk) if turn % 2 == 0 else (chunk, plain)
      seconds = {call: _seconds(call) for call in pair}
      times.append((seconds[plain], seconds[chunk]))
    yield PromptTime(
      heads=name,
      plain_ms=1e3 * statistics.median(first for first, _ in times),
      chunk_ms=1e3 * statistics.median(second for _, second in times),
      speedup=statistics.median(first / second for first, second in times),
      error=error,
    )


def _seconds(call: TimedCall) -> float:
  begin = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - begin


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command line; returns the exit code."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument("--length", type=int, default=512, help="tokens of the prompt (default: %(default)s)")
  parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"), help="(default: %(default)s)")
  parser.add_argument("--rounds", type=int, default=21, help="turns of both (default: %(default)s)")
  args = parser.parse_args(argv)
  print(describe())
  table = Table(title=f"Attention of a prompt of {args.length} tokens in {args.dtype}, ms: medians in turns")
  for heading in ("heads", "plain JAX", "chunk_attention", "speed-up", "difference"):
    table.add_column(heading, justify="left" if heading == "heads" else "right")
  for row in prompt_times(tuple(HEADS), length=args.length, dtype=args.dtype, rounds=args.rounds):
    numbers = f"{row.plain_ms:.2f}", f"{row.chunk_ms:.2f}", f"{row.speedup:.2f}x", f"{row.error:.1e}"
    table.add_row(row.heads, *numbers)
  Console().print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
