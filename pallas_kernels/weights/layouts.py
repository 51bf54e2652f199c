"""Numbers of a quantised weight in the layouts of `Form`, and back; for NumPy and for JAX arrays."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from pallas_kernels.weights.form import CODES, LANES, LINE, RUN, Form


def _of(array: Any) -> Any:
  """The array library of `array`."""
  return np if isinstance(array, np.ndarray) else jnp


def unpacked(values: Any, form: Form, shape: tuple[int, ...]) -> Any:
  """The stored numbers of a weight of `shape`, one each in int8 or uint8: [..., out, in] of the given sizes."""
  xp, (outs, inner) = _of(values), shape[-2:]
  if form.layout == "rows":
    numbers = values if form.in_byte == 1 else _stacked(xp, values, -1)
  elif form.layout == "tiles":
    numbers = _of_words(xp, values, form)
  else:
    numbers = values.reshape(*values.shape[:-1], LANES, LINE // LANES)
    # [.., blocks, lines, outputs, inputs of a half], and for two numbers in a byte an axis of halves before the last.
    numbers = numbers[..., None, :] if form.in_byte == 1 else _stacked(xp, numbers, -2)
    numbers = xp.moveaxis(numbers, -3, -4)
    numbers = numbers.reshape(*numbers.shape[:-5], numbers.shape[-5] * LANES, -1)
  return numbers.reshape(*shape[:-2], -1, form.inputs(inner))[..., :outs, :inner]


def meant(stored: Any, code: str, dtype: DTypeLike) -> Any:
  """The numbers, less the code's zero, that stored ones mean, in a `dtype` that holds them exactly."""
  if CODES[code].whole:
    return stored.astype(np.dtype(dtype)) - CODES[code].zero
  if code == "e4m3":
    if isinstance(stored, np.ndarray):
      return stored.view(jnp.float8_e4m3fn).astype(np.dtype(dtype))
    return jax.lax.bitcast_convert_type(stored, jnp.float8_e4m3fn).astype(np.dtype(dtype))
  # Twice the magnitudes are whole: 0, 1, 2, 3, 4, 6, 8, 12.
  magnitude = stored & 7
  xp = _of(stored)
  twice = xp.where(magnitude < 4, magnitude, (2 + (magnitude & 1)) << (xp.maximum(magnitude, 2) >> 1) - 1)
  signed = xp.where(stored & 8, -twice.astype(np.float32), twice.astype(np.float32))
  return (signed / 2).astype(np.dtype(dtype))


def packed(numbers: np.ndarray, form: Form) -> np.ndarray:
  """The stored values of numbers [..., out, in] of int8 or uint8."""
  *stack, outs, inner = numbers.shape
  blocks = outs if form.layout == "rows" else -(-outs // LANES) * LANES
  zero = CODES[form.code].zero
  whole = filled(numbers, (*stack, blocks, form.inputs(inner)), zero)
  if form.layout == "rows":
    return whole if form.in_byte == 1 else whole[..., 0::2] | whole[..., 1::2] << 4
  if form.layout == "tiles":
    return _in_words(whole, form)
  lines = whole.reshape(*stack, blocks // LANES, LANES, -1, form.in_byte, LINE // LANES)
  lines = np.moveaxis(lines, -3, -4)
  halves = lines[..., 0, :] if form.in_byte == 1 else lines[..., 0, :] | lines[..., 1, :] << 4
  return np.ascontiguousarray(halves).reshape(form.values_shape(numbers.shape))


def _of_words(xp: Any, words: Any, form: Form) -> Any:
  """The numbers of words [..., tiles, blocks, 16, 32]: [..., 16 tiles, blocks, in a word, 32] in int8 or uint8."""
  one = 2**form.bits - 1
  numbers = xp.stack([words >> form.bits * place & one for place in range(form.in_word)], -2)
  numbers = xp.moveaxis(numbers.astype(np.uint8), -3, -4)
  numbers = numbers.reshape(*numbers.shape[:-5], numbers.shape[-5] * LANES, *numbers.shape[-3:])
  return numbers.astype(np.int8) if form.code == "int8" else numbers


def _in_words(numbers: np.ndarray, form: Form) -> np.ndarray:
  """The words of numbers [..., out, in] of which outputs and inputs are whole tiles."""
  *stack, outs, _ = numbers.shape
  split = numbers.view(np.uint8).reshape(*stack, outs // LANES, LANES, -1, form.in_word, RUN)
  words = np.zeros((*split.shape[:-2], RUN), np.uint16)
  for place in range(form.in_word):
    words |= split[..., place, :].astype(np.uint16) << np.uint16(form.bits * place)
  return np.ascontiguousarray(np.moveaxis(words, -2, -3))


def by_output(scales: Any, form: Form, outs: int) -> Any:
  """Scales or zeros in the order of outputs: [..., out, groups], with those of groups that only fill up a tile."""
  if form.layout == "rows":
    return scales
  moved = _of(scales).moveaxis(scales, -1, -2)
  return moved.reshape(*moved.shape[:-3], -1, moved.shape[-1])[..., :outs, :]


def by_block(scales: np.ndarray, form: Form, shape: tuple[int, ...]) -> np.ndarray:
  """Scales or zeros [..., out, groups] of a weight of `shape`, in the order of `form`."""
  if form.layout == "rows":
    return scales
  *stack, tiles, groups, _ = form.scales_shape(shape)
  # A power of two has no 0 to fill up with, and its NaN would not be without effect.
  whole = filled(scales, (*stack, tiles * LANES, groups), 1 if form.layout == "tiles" else 0)
  return np.ascontiguousarray(np.moveaxis(whole.reshape(*stack, tiles, LANES, groups), -1, -2))


def relaid(form: Form, layout: str) -> Form:
  """The same form in another layout."""
  return dataclasses.replace(form, layout=layout)


def _stacked(xp: Any, values: Any, axis: int) -> Any:
  """Low and high halves of bytes, along a new axis."""
  return xp.stack([values & 15, values >> 4], axis)


def filled(array: np.ndarray, shape: tuple[int, ...], fill: int) -> np.ndarray:
  """The array, and `fill` beyond it up to `shape`; no copy where it has that shape."""
  if array.shape == shape:
    return array
  whole = np.full(shape, fill, array.dtype)
  whole[tuple(slice(size) for size in array.shape)] = array
  return whole
