"""Out of memory, said with the sizes that matter and with what to lower."""

import contextlib
from collections.abc import Iterator

import jax

from lynx_jax.models.params import Params
from lynx_jax.models.sizes import bytes_of


class OutOfMemoryError(MemoryError):
  """A batch does not fit in memory; the message has sizes and a remedy."""


@contextlib.contextmanager
def out_of_memory_explained(params: Params, rows: int, positions: int) -> Iterator[None]:
  """Raises `OutOfMemoryError` where the work inside runs out of memory.

  Args:
    params: the model that runs.
    rows: rows of the batch, as padded.
    positions: positions of the cache, for each row.
  """
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError) as error:
    if isinstance(error, OutOfMemoryError) or not _is_out_of_memory(error):
      raise
    cache, weights = cache_bytes(params, rows, positions) / 1e9, bytes_of(params.decoder) / 1e9
    raise OutOfMemoryError(
      f"out of memory: {rows} rows x {positions} positions take a cache of {cache:.2f} GB beside {weights:.2f} GB of "
      f"weights, and room to compute; lower the rows (prompts, --batch), the positions (shorter prompts, "
      f"max_new_tokens) or the weights (dtype bfloat16, weights int8 or int4)"
    ) from error


def cache_bytes(params: Params, rows: int, positions: int) -> int:
  """Bytes of a cache of `rows` rows x `positions` positions."""
  layers = params.spec.layers
  return rows * positions * sum(layer.attention.cache_spec(params.decoder.dtype).bytes_per_position for layer in layers)


def _is_out_of_memory(error: Exception) -> bool:
  text = str(error)
  return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "Out of memory" in text
