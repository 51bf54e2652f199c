"""The quantised types of GGUF files: bytes of rows as numbers, a scale for each group of them, and an offset.

A weight is number * scale - offset, in float32. Types whose numbers follow from a table of vectors (IQ1, IQ2, IQ3) are
not read. Reference: llama.cpp's `ggml/src/ggml-common.h` (layouts) and `ggml-quants.c` (`dequantize_row_*`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import ml_dtypes
import numpy as np
from jaxtyping import Float32, Integer, UInt8

from checkpoints_convert.gguf_types import BY_NAME
from pallas_kernels.weights.form import CODES
from pallas_kernels.weights.layouts import meant

Blocks = UInt8[np.ndarray, "blocks bytes"]

# Numbers of float32 at a time, on their way to the wanted dtype.
_CHUNK = 1 << 21
# The magnitudes of IQ4 in 127ths, by their four bits.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
  """Blocks of a quantised tensor, taken apart.

  Attributes:
    code: one of `pallas_kernels.weights.form.CODES`, of the numbers.
    numbers: [blocks, numbers of a block] as the code stores them, one a byte.
    scales: [blocks, groups of a block].
    offsets: what is taken off, of the shape of `scales`, or None.
  """

  code: str
  numbers: Integer[np.ndarray, "blocks numbers"]
  scales: Float32[np.ndarray, "blocks groups"]
  offsets: Float32[np.ndarray, "blocks groups"] | None = None

  def dequantised(self) -> Float32[np.ndarray, "blocks numbers"]:
    """The weights."""
    groups = (*self.scales.shape, -1)
    zero = 0 if self.offsets is None else CODES[self.code].zero
    numbers = meant(self.numbers, self.code, np.float32).reshape(groups) + np.float32(zero)
    with np.errstate(over="ignore", invalid="ignore"):  # what files hold may be infinite
      numbers *= self.scales[..., None]
      if self.offsets is not None:
        numbers -= self.offsets[..., None]
    return numbers.reshape(len(self.numbers), -1)


def take_apart(rows: UInt8[np.ndarray, "*rows bytes"], code: str) -> Parts:
  """The blocks of rows as files hold them, of a type in `LAYOUTS`."""
  with np.errstate(over="ignore", invalid="ignore"):  # factors may be infinite or no numbers
    return LAYOUTS[code](rows.reshape(-1, BY_NAME[code].nbytes))


def dequantise(rows: UInt8[np.ndarray, "*rows bytes"], code: str, dtype: np.dtype) -> np.ndarray:
  """The weights [*rows, numbers] of rows as files hold them; each is rounded once."""
  kind = BY_NAME[code]
  blocks = rows.reshape(-1, kind.nbytes)
  out = np.empty((len(blocks), kind.numbers), dtype)
  step = _CHUNK // kind.numbers
  with np.errstate(over="ignore", invalid="ignore"):  # what files hold may leave the dtype
    for start in range(0, len(blocks), step):
      out[start : start + step] = take_apart(blocks[start : start + step], code).dequantised()
  return out.reshape(*rows.shape[:-1], -1)


def _float16(data: Blocks) -> Float32[np.ndarray, "blocks n"]:
  return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _halves(data: UInt8[np.ndarray, "blocks bytes"], run: int) -> UInt8[np.ndarray, "blocks numbers"]:
  """Two numbers a byte: those in the low halves of `run` bytes, then those in their high halves, and so on."""
  runs = data.reshape(len(data), -1, 1, run)
  return np.concatenate([runs & 15, runs >> 4], axis=2).reshape(len(data), -1)


def _bits(data: UInt8[np.ndarray, "blocks bytes"], run: int, width: int) -> UInt8[np.ndarray, "blocks numbers"]:
  """Numbers of `width` bits: those in the lowest bits of `run` bytes, then those in the next bits, and so on."""
  shifts = np.arange(0, 8, width, dtype=np.uint8)[:, None]
  runs = data.reshape(len(data), -1, 1, run)
  return (runs >> shifts & ((1 << width) - 1)).reshape(len(data), -1)


def _q4_0(blocks: Blocks) -> Parts:
  return Parts(code="int4", numbers=_halves(blocks[:, 2:], 16), scales=_float16(blocks[:, :2]))


def _q4_1(blocks: Blocks) -> Parts:
  numbers = _halves(blocks[:, 4:], 16)
  return Parts(code="int4", numbers=numbers, scales=_float16(blocks[:, :2]), offsets=-_float16(blocks[:, 2:4]))


def _fifth_bits(data: Blocks) -> UInt8[np.ndarray, "blocks numbers"]:
  return np.unpackbits(data, axis=1, bitorder="little") << 4


def _q5_0(blocks: Blocks) -> Parts:
  numbers = (_halves(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])).astype(np.int8) - np.int8(16)
  return Parts(code="int8", numbers=numbers, scales=_float16(blocks[:, :2]))


def _q5_1(blocks: Blocks) -> Parts:
  numbers = (_halves(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])).astype(np.int8)
  return Parts(code="int8", numbers=numbers, scales=_float16(blocks[:, :2]), offsets=-_float16(blocks[:, 2:4]))


def _q8_0(blocks: Blocks) -> Parts:
  return Parts(code="int8", numbers=blocks[:, 2:].view(np.int8), scales=_float16(blocks[:, :2]))


def _q2_k(blocks: Blocks) -> Parts:
  both, factors = blocks[:, :16], _float16(blocks[:, 80:])
  return Parts(
    code="int4",
    numbers=_bits(blocks[:, 16:80], 32, 2),
    scales=factors[:, :1] * (both & 15),
    offsets=factors[:, 1:] * (both >> 4),
  )


def _q3_k(blocks: Blocks) -> Parts:
  # A third bit that is 0 takes 4 off.
  high = _bits(blocks[:, :32], 32, 1)
  numbers = _bits(blocks[:, 32:96], 32, 2) + (high << 2) + np.uint8(CODES["int4"].zero - 4)
  low, upper = _halves(blocks[:, 96:104], 8), _bits(blocks[:, 104:108], 4, 2)
  scales = (low | upper << 4).astype(np.float32) - 32
  return Parts(code="int4", numbers=numbers, scales=_float16(blocks[:, 108:]) * scales)


def _scales_and_offsets(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
  """Of Q4_K and Q5_K: eight of six bits each, times a factor; the last four keep their upper bits in the first."""
  factors, packed = _float16(blocks[:, :4]), blocks[:, 4:16]
  first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
  scales = np.concatenate([first & 63, rest & 15 | first >> 6 << 4], axis=1)
  offsets = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
  return factors[:, :1] * scales, factors[:, 1:] * offsets


def _q4_k(blocks: Blocks) -> Parts:
  scales, offsets = _scales_and_offsets(blocks)
  return Parts(code="int4", numbers=_halves(blocks[:, 16:], 32), scales=scales, offsets=offsets)


def _q5_k(blocks: Blocks) -> Parts:
  scales, offsets = _scales_and_offsets(blocks)
  numbers = _halves(blocks[:, 48:], 32) | _bits(blocks[:, 16:48], 32, 1) << 4
  return Parts(code="int8", numbers=numbers.astype(np.int8), scales=scales, offsets=offsets)


def _q6_k(blocks: Blocks) -> Parts:
  numbers = (_halves(blocks[:, :128], 64) | _bits(blocks[:, 128:192], 32, 2) << 4).astype(np.int8) - np.int8(32)
  scales = blocks[:, 192:208].view(np.int8)
  return Parts(code="int8", numbers=numbers, scales=_float16(blocks[:, 208:]) * scales)


def _iq4_nl(blocks: Blocks) -> Parts:
  return Parts(code="int8", numbers=_IQ4[_halves(blocks[:, 2:], 16)], scales=_float16(blocks[:, :2]))


def _iq4_xs(blocks: Blocks) -> Parts:
  # Two upper bits of each scale, then four lower ones.
  upper, low = _bits(blocks[:, 2:4], 1, 2), _halves(blocks[:, 4:8], 1)
  scales = (low | upper << 4).astype(np.float32) - 32
  return Parts(code="int8", numbers=_IQ4[_halves(blocks[:, 8:], 16)], scales=_float16(blocks[:, :2]) * scales)


def _mxfp4(blocks: Blocks) -> Parts:
  # The largest exponent is no number (OCP Microscaling Formats 1.0, section 5.4.1).
  scales = blocks[:, :1].view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
  return Parts(code="e2m1", numbers=_halves(blocks[:, 1:], 16), scales=scales)


LAYOUTS: Mapping[str, Callable[[Blocks], Parts]] = MappingProxyType(
  {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs, "MXFP4": _mxfp4,
  }
)  # fmt: skip
"""The types that are read, each as what takes its blocks apart."""
