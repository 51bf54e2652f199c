"""4-bit floats (e2m1) in pairs with scales of 8 bits, of which NVFP4 and MXFP4 are the two kinds.

A matrix `X` [..., O, I] is held as bytes [..., O, I / 2], the low half first. NVFP4 has an e4m3 scale for every 16
inputs, and one float32 factor more for the matrix, since e4m3 is too narrow for it. MXFP4 has a power of two for every
32 inputs (OCP Microscaling Formats 1.0).
"""

import functools

import numpy as np

from checkpoints_convert.dtypes import E8M0, FP8
from checkpoints_convert.formats.mxfp4 import EXPONENTS
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.reader import Reader
from pallas_kernels import Form, QuantizedWeight, abstract_quantized

NVFP4 = Form(code="e2m1", group=16)
MXFP4 = Form(code="e2m1", group=32)


def float4(
  found: Format, reader: Reader, values: str, scales: str, factor: str | None, *, divides: bool = False
) -> Packed:
  """The matrix whose pairs are the tensor `values`.

  `factor` names the matrix's own factor, where it has one; `divides` says that scales are divided by it.
  """
  found.check_code(reader, values, ("U8",))
  found.check_code(reader, scales, (FP8, "U8", E8M0))
  form = NVFP4 if reader.dtypes[scales] == FP8 else MXFP4
  *lead, rows, pairs = reader.shapes[values]
  shape = (*lead, rows, 2 * pairs)
  found.check_shape(reader, scales, (*lead, rows, form.groups(2 * pairs)), values)
  if factor is not None:
    found.check_code(reader, factor, ("F32",))
    if int(np.prod(reader.shapes[factor])) not in (1, int(np.prod(lead))):
      raise found.misfit(reader, f"{factor} has shape {list(reader.shapes[factor])}, expected one number a matrix")
  scale_type = EXPONENTS if form == MXFP4 else np.dtype("float8_e4m3fn")
  return Packed(
    parts=tuple(part for part in (values, scales, factor) if part is not None),
    shape=shape,
    held=abstract_quantized(shape, form, np.float32, scale_type, gains=factor is not None),
    read=functools.partial(_read, reader, values, scales, factor, form, divides),
  )


def _read(reader: Reader, values: str, scales: str, factor: str | None, form: Form, divides: bool) -> QuantizedWeight:
  pairs, narrow = reader.read(values), reader.read(scales)
  *lead, rows, width = pairs.shape
  gains = None
  if factor is not None:
    whole = reader.read(factor).reshape(*((1,) * len(lead) if reader.read(factor).size == 1 else lead), 1, 1)
    gains = np.broadcast_to(1 / whole if divides else whole, (*lead, rows, 1))
  return QuantizedWeight(
    values=_whole_groups(pairs, form),
    scales=narrow.view(EXPONENTS) if form == MXFP4 else narrow,
    gains=gains,
    form=form,
    matrix=(rows, 2 * width),
  )


def _whole_groups(pairs: np.ndarray, form: Form) -> np.ndarray:
  """The bytes, with zeros up to a whole group of inputs."""
  *rest, width = pairs.shape
  missing = form.inputs(2 * width) // 2 - width
  return np.pad(pairs, [*((0, 0) for _ in rest), (0, missing)]) if missing else pairs
