"""A quantised weight of NumPy arrays as plain numbers, few of which are float32 at a time."""

import functools

import jax
import numpy as np
from jaxtyping import Num

from pallas_kernels.cpu.huge_pages import aligned_empty
from pallas_kernels.weights.form import CODES
from pallas_kernels.weights.layouts import meant
from pallas_kernels.weights.quantized import QuantizedWeight

_CHUNK = 1 << 21


def widened(weight: QuantizedWeight, dtype: np.dtype) -> Num[np.ndarray, "*shape"]:
  """The numbers of a weight in the layout `rows`, each a product in float32 that is rounded once.

  Powers of two that leave float32 lead to infinity.
  """
  form, inner = weight.form, weight.matrix[1]
  assert form.layout == "rows", form
  out = aligned_empty(weight.shape, dtype)
  rows = out.reshape(-1, inner)
  flat = jax.tree.map(lambda leaf: leaf.reshape(len(rows), -1), weight)
  meanings = _meanings(form.code)
  step = max(1, _CHUNK // max(1, form.inputs(inner)))
  for start in range(0, len(rows), step):
    some = jax.tree.map(lambda leaf, start=start: leaf[start : start + step, :, np.newaxis], flat)
    numbers = meanings[some.values[..., 0].view(np.uint8)]
    numbers = numbers.reshape(len(numbers), form.groups(inner), -1)
    if some.zeros is not None:
      numbers -= some.zeros.astype(np.float32) - CODES[form.code].zero
    with np.errstate(over="ignore"):
      numbers *= some.scales.astype(np.float32)
      if some.gains is not None:
        numbers *= some.gains
      rows[start : start + step] = numbers.reshape(len(numbers), -1)[:, :inner]
  return out


@functools.cache
def _meanings(code: str) -> Num[np.ndarray, "256 B"]:
  """The numbers of every byte, less the code's zero, in float32."""
  every = np.arange(256, dtype=np.uint8)
  if CODES[code].bits == 8:
    return meant(every.view(np.int8) if code == "int8" else every, code, np.float32)[:, np.newaxis]
  return meant(np.stack([every & 15, every >> 4], axis=-1), code, np.float32)
