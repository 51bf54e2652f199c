"""Packs numbers as llama.cpp's K-quants, rounding to nearest; its own package only reads these types.

A block is 256 numbers of a row. Each layout is stated bit by bit, after `ggml/src/ggml-common.h` of llama.cpp.
"""

from typing import Any

import gguf
import numpy as np

Quant = gguf.GGMLQuantizationType


def encode(array: np.ndarray, kind: Quant) -> np.ndarray:
  """The bytes of rows, [..., rows, bytes], of any type that is written in these tests."""
  if kind not in _PACKED:
    return gguf.quantize(array, kind)
  blocks = np.stack([_PACKED[kind](block) for block in array.astype(np.float32).reshape(-1, 256)])
  return blocks.reshape(*array.shape[:-1], -1)


def _half(*values: Any) -> np.ndarray:
  return np.array(values, np.float16).view(np.uint8)


def _scaled_and_shifted(block: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, list[Any]]:
  """Numbers 0 to `most` of eight groups, their twelve bytes of scales and mins, and the factors of both."""
  groups = block.reshape(8, 32)
  least = np.minimum(groups.min(axis=1), 0)
  steps = np.maximum((groups.max(axis=1) - least) / most, 1e-8)
  factors = [np.float16(steps.max() / 63), np.float16(max(-least.min() / 63, 1e-7))]
  scales = np.clip(np.rint(steps / np.float32(factors[0])), 1, 63).astype(int)
  mins = np.clip(np.rint(-least / np.float32(factors[1])), 0, 63).astype(int)
  step, offset = scales * np.float32(factors[0]), mins * np.float32(factors[1])
  numbers = np.clip(np.rint((groups + offset[:, None]) / step[:, None]), 0, most).astype(np.uint8)
  packed = np.zeros(12, np.uint8)
  for group in range(4):
    packed[group] = scales[group] | scales[group + 4] >> 4 << 6
    packed[group + 4] = mins[group] | mins[group + 4] >> 4 << 6
    packed[group + 8] = scales[group + 4] & 15 | (mins[group + 4] & 15) << 4
  return numbers, packed, factors


def _nibbles(numbers: np.ndarray) -> np.ndarray:
  """Groups 2i in the low and 2i + 1 in the high halves of 32 bytes."""
  low = numbers & 15
  return np.concatenate([low[2 * pair] | low[2 * pair + 1] << 4 for pair in range(4)])


def _q4_k(block: np.ndarray) -> np.ndarray:
  numbers, scales, factors = _scaled_and_shifted(block, 15)
  return np.concatenate([_half(*factors), scales, _nibbles(numbers)])


def _q5_k(block: np.ndarray) -> np.ndarray:
  numbers, scales, factors = _scaled_and_shifted(block, 31)
  fifth = np.zeros(32, np.uint8)
  for group in range(8):
    fifth |= numbers[group] >> 4 << group
  return np.concatenate([_half(*factors), scales, fifth, _nibbles(numbers)])


def _q6_k(block: np.ndarray) -> np.ndarray:
  groups = block.reshape(16, 16)
  steps = np.maximum(np.abs(groups).max(axis=1) / 31, 1e-8)
  factor = np.float16(steps.max() / 127)
  scales = np.clip(np.rint(steps / np.float32(factor)), 1, 127).astype(np.int8)
  step = scales * np.float32(factor)
  numbers = (np.clip(np.rint(groups / step[:, None]), -32, 31) + 32).astype(np.uint8).reshape(2, 4, 32)
  low, high = np.zeros((2, 64), np.uint8), np.zeros((2, 32), np.uint8)
  for half in range(2):
    for quarter in range(4):
      part = slice(32 * (quarter % 2), 32 * (quarter % 2) + 32)
      low[half, part] |= (numbers[half, quarter] & 15) << 4 * (quarter // 2)
      high[half] |= numbers[half, quarter] >> 4 << 2 * quarter
  return np.concatenate([low.ravel(), high.ravel(), scales.view(np.uint8), _half(factor)])


_PACKED = {Quant.Q4_K: _q4_k, Quant.Q5_K: _q5_k, Quant.Q6_K: _q6_k}
