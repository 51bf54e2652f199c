"""Measures how fast this device reads its memory, which is the bound for reading weights."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Calls that are queued together, so that launches cost nothing.
_QUEUED = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBandwidth:
  """Bytes a second of passes over one large array.

  Attributes:
    by_pass: bytes a second for each kind of pass; a copy counts what it reads and what it writes.
  """

  by_pass: dict[str, float]

  @property
  def best(self) -> float:
    """Bytes a second of the fastest pass."""
    return max(self.by_pass.values())


def memory_bandwidth(megabytes: int = 1024, repeats: int = 5) -> MemoryBandwidth:
  """Times sums over an array of so many megabytes, cut in several ways, and an elementwise pass that writes, too."""
  x = jax.jit(lambda: jax.lax.iota(jnp.int32, megabytes * 2**18))()
  sums: dict[str, Callable[[jax.Array], jax.Array]] = {"sum": jnp.sum}
  for rows in (256, 4096, 65536):
    if x.size > rows:
      sums[f"sum of {rows} rows"] = functools.partial(_row_sums, rows)
  by_pass = {}
  for name, reduce in sums.items():
    compiled = jax.jit(reduce).lower(x).compile()
    by_pass[name] = x.nbytes / _seconds(functools.partial(compiled, x), repeats)
  step = jax.jit(lambda x: x + jnp.int32(1), donate_argnums=0).lower(x).compile()

  def copied() -> jax.Array:
    nonlocal x
    x = step(x)
    return x

  by_pass["read and write"] = 2 * x.nbytes / _seconds(copied, repeats)
  return MemoryBandwidth(by_pass=by_pass)


def _row_sums(rows: int, x: jax.Array) -> jax.Array:
  return x.reshape(rows, -1).sum(1)


def _seconds(call: Callable[[], jax.Array], repeats: int) -> float:
  call().block_until_ready()
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    for _ in range(_QUEUED - 1):
      call()
    call().block_until_ready()
    times.append((time.perf_counter() - begin) / _QUEUED)
  return statistics.median(times)
