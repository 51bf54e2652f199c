"""How many blocks of the paged cache there is memory for."""

import os
from pathlib import Path

import jax

from lynx_jax.engine.host.step_plan import BLOCK_SIZE
from lynx_jax.models.params import Params
from lynx_jax.models.sizes import cache_bytes
from pallas_kernels.checks import require

_SHARE = 0.25
_DEVICE_SHARE = 0.9


def blocks_for(params: Params, slots: int, table: int, kv_bytes: int | None) -> int:
  """Blocks of the pool.

  Args:
    params: the model.
    slots: sequences at once.
    table: blocks of the longest sequence.
    kv_bytes: memory for the pool; None is room for all sequences at their longest, or a quarter of the memory that is
      available on a CPU, and nine tenths of what is free on another device, if that is less.

  Raises:
    ValueError: there is no room for one sequence at its longest.
  """
  block = cache_bytes(params.spec, params.decoder.dtype) * BLOCK_SIZE
  if kv_bytes is None:
    kv_bytes = min(slots * table * block, max(_available(), table * block))
  blocks = kv_bytes // block
  least = f"at least {table * block} bytes, room for one sequence of {table * BLOCK_SIZE} positions"
  require(blocks >= table, "EngineSettings.kv_bytes", kv_bytes, least, "or lower context")
  return min(blocks, slots * table)


def _available() -> int:
  """Bytes that a cache may take beside everything that is in memory."""
  stats = jax.devices()[0].memory_stats() or {}
  if "bytes_limit" in stats:
    return int(_DEVICE_SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
  return int(_SHARE * available_memory())


def available_memory() -> int:
  """Bytes of the machine's memory that programs can still get, as its kernel says."""
  try:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
  except (OSError, StopIteration):
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
