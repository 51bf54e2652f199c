"""8-bit floats (e4m3) with factors, as DeepSeek-V3's files have them (arXiv 2412.19437, 3.3) and many since.

A matrix `X` [..., O, I] is held as itself in e4m3, beside `X_scale_inv`, or `X_scale`, by which it is multiplied: one
number for each block of the matrix, for each output, or for the whole.
"""

import functools
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from checkpoints_convert.dtypes import E8M0, FLOATS, FP8, STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import Form, QuantizedWeight, abstract_quantized
from pallas_kernels.weights.layouts import filled

_SCALE_CODES = (*FLOATS, E8M0)
_SUFFIXES = ("_scale_inv", "_scale")
_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)


class Float8(Format):
  """Matrices of 8-bit floats; `block` has the rows and columns that share a scale where a matrix has several."""

  def __init__(self, name: str, block: tuple[int, int] | None):
    self.name, self.block = name, block

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every matrix of 8-bit floats."""
    scales = {
      name.removesuffix(suffix): name for suffix in _SUFFIXES for name in reader.dtypes if name.endswith(suffix)
    }
    scales = {name: scale for name, scale in scales.items() if not self.is_unread(scale)}
    values = [name for name, code in reader.dtypes.items() if code == FP8 and name not in scales.values()]
    found = {}
    for name in {**dict.fromkeys(values), **scales}:
      if name not in scales:
        raise self.misfit(reader, f"{name} has no {name}{_SUFFIXES[0]} beside it")
      if name not in reader.dtypes:
        raise self.misfit(reader, f"{scales[name]} has no {name} beside it")
      found[name] = self.matrix(reader, name, scales[name])
    return found

  def matrix(self, reader: Reader, name: str, scale: str) -> Packed:
    """The matrix `name`, whose factors are `scale`."""
    self.check_code(reader, name, (FP8,))
    self.check_code(reader, scale, _SCALE_CODES)
    shape = reader.shapes[name]
    if len(shape) < 2:
      raise self.misfit(reader, f"{name} has shape {list(shape)}, expected a matrix, or several")
    block = self._block(shape, reader.shapes[scale])
    if block is None:
      found, blocks = list(reader.shapes[scale]), "" if self.block is None else f"{list(_blocks(self.block, shape))}, "
      raise self.misfit(
        reader, f"{scale} has shape {found}, expected {blocks}one number or one an output for {name} {list(shape)}"
      )
    form = form_of_blocks(block, shape)
    return Packed(
      parts=(name, scale),
      shape=shape,
      held=None if form is None else abstract_quantized(shape, form, np.float32, STORED[reader.dtypes[scale]]),
      read=None if form is None else functools.partial(_read, reader, name, scale, block, form),
      dequantise=functools.partial(_dequantise, reader, name, scale, block) if form is None else None,
      why=f"its scales are for blocks of {block[1]} inputs, which is no multiple of 16",
    )

  def _block(self, shape: Shape, scales: Shape) -> tuple[int, int] | None:
    """Rows and columns that share a scale, given the shapes of a matrix and its scales; None where they do not fit."""
    if self.block is not None and scales == _blocks(self.block, shape):
      return self.block
    *lead, rows, columns = shape
    if scales in ((), (1,), (*lead, 1, 1)) or (lead and scales == (*lead,)):
      return rows, columns
    return (1, columns) if scales in ((*lead, rows), (*lead, rows, 1)) else None

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Every matrix, with scales of float32."""
    *_, rows, columns = shape
    form = form_of_blocks((rows, columns) if self.block is None else self.block, shape)
    return None if form is None else Piece(abstract_quantized(shape, form, np.float32, np.float32))

  def objection(self, name: str, piece: Piece) -> str | None:
    """Only the blocks of the settings are written."""
    weight, swapped = piece
    if self.block is None or swapped or weight.form != form_of_blocks(self.block, weight.shape):
      return f"fp8 files are written in blocks, and these weights are {weight.form.name}"
    return None

  def written_shapes(self, name: str, piece: Piece) -> dict[str, tuple[Shape, np.dtype]]:
    """The matrix and the scales of its blocks."""
    assert self.block is not None
    weight = piece.weight
    whole = weight.shape
    scales = _blocks(self.block, whole), np.dtype(weight.scales.dtype)
    return {name: (whole, STORED[FP8]), name + _SUFFIXES[0]: scales}

  def written(self, name: str, piece: Piece) -> dict[str, np.ndarray]:
    """The matrix and the scales of its blocks; CheckpointError where scales differ within one."""
    assert self.block is not None
    weight = piece.weight
    rows, columns = weight.matrix
    scales = weight.scales[..., :: self.block[0], :]
    if (np.repeat(scales, self.block[0], axis=-2)[..., :rows, :] != weight.scales).any():
      raise CheckpointError(f"{name}: scales differ within blocks of {self.block}: convert with weights='float'")
    return {name: weight.values[..., :columns].view(STORED[FP8]), name + _SUFFIXES[0]: scales}


def form_of_blocks(block: tuple[int, int], shape: Shape) -> Form | None:
  """The form that holds a matrix of such blocks; None where their columns are no group of any."""
  if block[1] >= shape[-1]:
    return Form(code="e4m3")
  return Form(code="e4m3", group=block[1]) if block[1] % 16 == 0 else None


def _blocks(block: tuple[int, int], shape: Shape) -> Shape:
  *lead, rows, columns = shape
  return (*lead, -(-rows // block[0]), -(-columns // block[1]))


def _read(reader: Reader, name: str, scale: str, block: tuple[int, int], form: Form) -> QuantizedWeight:
  values = reader.read(name).view(np.uint8)
  rows, columns = values.shape[-2:]
  scales = _by_block(reader.read(scale), block, values.shape)
  return QuantizedWeight(
    values=filled(values, form.values_shape(values.shape), 0),
    scales=np.repeat(scales, block[0], axis=-2)[..., :rows, :],
    form=form,
    matrix=(rows, columns),
  )


def _dequantise(reader: Reader, name: str, scale: str, block: tuple[int, int], dtype: np.dtype) -> np.ndarray:
  values = reader.read(name)
  return dequantise_fp8(values, _by_block(reader.read(scale), block, values.shape), dtype, block=block)


def _by_block(scales: np.ndarray, block: tuple[int, int], shape: Shape) -> np.ndarray:
  blocks = _blocks(block, shape)
  return np.broadcast_to(scales.ravel()[0], blocks) if scales.size == 1 else scales.reshape(blocks)


def dequantise_fp8(
  values: np.ndarray, scales: np.ndarray, dtype: np.dtype, *, block: tuple[int, int] = (128, 128)
) -> np.ndarray:
  """values[..., i, j] * scales[..., i // block[0], j // block[1]]; blocks at the edges may be cut short."""
  out = np.empty(values.shape, dtype)
  codes = values.view(np.uint8)
  *lead, rows, columns = values.shape
  for matrix in np.ndindex(*lead):
    for row, start in enumerate(range(0, rows, block[0])):
      part = (*matrix, slice(start, start + block[0]))
      factors = np.repeat(scales[(*matrix, row)].astype(np.float32), block[1])[:columns]
      numbers = _VALUES[codes[part]]
      numbers *= factors
      out[part] = numbers
  return out
