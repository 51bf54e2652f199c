"""The quantised tensors of GGUF files, each in the form that comes nearest to its type.

| type | held as | bits of a number, there and here |
|---|---|---|
| Q8_0, Q4_0, MXFP4 | the same numbers and scales | 8.5, 4.5, 4.25 in both |
| Q4_K, Q4_1 | 4 bits, a scale and a zero for 32 | 4.5, 5 and 5 |
| Q5_K, Q5_1 | 8 bits, a scale and a zero for 32 | 5.5, 6 and 9 |
| Q6_K | 8 bits, a scale for 16 | 6.56 and 9 |
| Q5_0, IQ4_NL, IQ4_XS | 8 bits, a scale for 32 | 5.5, 4.5, 4.25 and 8.5 |
| Q2_K | 4 bits, a scale and a zero for 16 | 2.63 and 6 |
| Q3_K | 4 bits, a scale for 16 | 3.44 and 5 |

Numbers are those of the file. Scales are, too, in the first line and in Q5_0 and IQ4_NL. In the others a scale is a
product, and a zero a quotient, that float16 holds to one part in 2048; kept in float32, they would take Q4_K from 5 to
6 bits. That error is about a hundredth of the one that the type itself has made. What is dequantised is exact.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import ml_dtypes
import numpy as np

from checkpoints_convert.dtypes import FLOATS
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.gguf_blocks import LAYOUTS, Parts, dequantise, take_apart
from checkpoints_convert.gguf_types import BY_NAME
from checkpoints_convert.reader import Reader
from pallas_kernels import Form, QuantizedWeight, abstract_quantized
from pallas_kernels.cpu.huge_pages import aligned_empty
from pallas_kernels.weights.layouts import packed

_HALF = np.dtype(np.float16)
_LARGEST = np.finfo(_HALF).max
# Numbers that are taken apart at a time.
_CHUNK = 1 << 21


class Kept(NamedTuple):
  """How a type is held: its form, the dtype of its scales, and whether it has zeros, which are float16."""

  form: Form
  scales: np.dtype = _HALF
  zeros: bool = False


KEPT: Mapping[str, Kept] = MappingProxyType(
  {
    "Q8_0": Kept(Form(code="int8", group=32)),
    "Q4_0": Kept(Form(code="int4", group=32)),
    "MXFP4": Kept(Form(code="e2m1", group=32), np.dtype(ml_dtypes.float8_e8m0fnu)),
    "Q4_1": Kept(Form(code="int4", group=32), zeros=True),
    "Q5_0": Kept(Form(code="int8", group=32)),
    "Q5_1": Kept(Form(code="int8", group=32), zeros=True),
    "Q2_K": Kept(Form(code="int4", group=16), zeros=True),
    "Q3_K": Kept(Form(code="int4", group=16)),
    "Q4_K": Kept(Form(code="int4", group=32), zeros=True),
    "Q5_K": Kept(Form(code="int8", group=32), zeros=True),
    "Q6_K": Kept(Form(code="int8", group=16)),
    "IQ4_NL": Kept(Form(code="int8", group=32)),
    "IQ4_XS": Kept(Form(code="int8", group=32)),
  }
)
"""Every type that is read."""
EXACT = ("Q8_0", "Q4_0", "MXFP4", "Q5_0", "IQ4_NL")
"""The types whose scales are held as they are."""


class GGUF(Format):
  """The types of GGUF, which each tensor has for itself."""

  name = "gguf"

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every tensor that is no plain float."""
    found = {}
    for name, code in reader.dtypes.items():
      if code in FLOATS:
        continue
      if code not in LAYOUTS:
        raise CheckpointError(
          f"{reader.directory / reader.files[name]}: tensor {name} has type {code}: not supported; supported: "
          f"{', '.join((*FLOATS, *LAYOUTS))}: get the model in another one, such as Q4_K_M"
        )
      shape = reader.shapes[name]
      kept = KEPT[code] if len(shape) > 1 else None
      found[name] = Packed(
        parts=(name,),
        shape=shape,
        held=None if kept is None else _abstract(shape, kept),
        read=None if kept is None else functools.partial(_read, reader, name, kept),
        dequantise=functools.partial(_dequantise, reader, name),
      )
    return found


def _abstract(shape: tuple[int, ...], kept: Kept) -> QuantizedWeight:
  return abstract_quantized(shape, kept.form, np.float32, kept.scales, zeros=_HALF if kept.zeros else None)


def _dequantise(reader: Reader, name: str, dtype: np.dtype) -> np.ndarray:
  return dequantise(reader.read(name), reader.dtypes[name], dtype)


def _read(reader: Reader, name: str, kept: Kept) -> QuantizedWeight:
  code, shape, form = reader.dtypes[name], reader.shapes[name], kept.form
  kind = BY_NAME[code]
  blocks = reader.read(name).reshape(-1, kind.nbytes)
  values = aligned_empty(form.values_shape(shape), np.int8 if form.code == "int8" else np.uint8)
  scales = aligned_empty(form.scales_shape(shape), kept.scales)
  zeros = aligned_empty(scales.shape, _HALF) if kept.zeros else None
  by_block = [None if array is None else array.reshape(len(blocks), -1) for array in (values, scales, zeros)]
  step = _CHUNK // kind.numbers
  for start in range(0, len(blocks), step):
    part = slice(start, start + step)
    numbers, *factors = _in_form(take_apart(blocks[part], code))
    for array, made in zip(by_block, (packed(numbers, form), *factors), strict=True):
      if array is not None:
        array[part] = made
  return QuantizedWeight(values=values, scales=scales, zeros=zeros, form=form, matrix=(shape[-2], shape[-1]))


def _in_form(parts: Parts) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
  """Numbers, scales and zeros; a group without a scale, or with one that is too small for its offset, is constant."""
  numbers, scales, offsets = parts.numbers, parts.scales, parts.offsets
  if offsets is None:
    return numbers, scales, None
  with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
    zeros = offsets / scales
    flat = ~(np.abs(zeros) <= _LARGEST)
  if flat.any():
    # (0 - 1) * offset
    grouped = np.where(flat[..., None], 0, numbers.reshape(*scales.shape, -1))
    numbers = grouped.reshape(numbers.shape).astype(numbers.dtype)
    scales, zeros = np.where(flat, offsets, scales), np.where(flat, np.float32(1), zeros)
  return numbers, scales, zeros
