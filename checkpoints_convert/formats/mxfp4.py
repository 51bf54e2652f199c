"""4-bit floats (e2m1), 32 of a row sharing a power of two, as gpt-oss has its experts (arXiv 2508.10925).

A tensor `X` [..., 32 G, N] is held as rows of its outputs N: `X_blocks` [..., N, G, 16], two numbers in a byte, the
low half first, and `X_scales` [..., N, G], exponents with bias 127. As `convert_moe_packed_tensors` of transformers
has it, whose model has inputs before outputs.
"""

import functools
from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import QuantizedWeight, abstract_quantized
from pallas_kernels.weights.form import MXFP4 as FORM

_VALUES, _SCALES = "_blocks", "_scales"
_GROUP_BYTES = 16
EXPONENTS = np.dtype(ml_dtypes.float8_e8m0fnu)
"""Powers of two in a byte; 255 is no number (OCP Microscaling Formats 1.0, section 5.4.1)."""


class MXFP4(Format):
  """The format `mxfp4` of config.json."""

  name = "mxfp4"

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every `X` of which there are blocks and scales."""
    found = {}
    for name in _bases(reader):
      values, scales = name + _VALUES, name + _SCALES
      for part, other in ((values, scales), (scales, values)):
        if part not in reader.dtypes:
          raise self.misfit(reader, f"{other} has no {part} beside it")
        self.check_code(reader, part, ("U8",))
      if name in reader.dtypes:
        raise self.misfit(reader, f"{name} is there a second time, as {values} and {scales}")
      *lead, groups, size = reader.shapes[values]
      if len(lead) < 1 or size != _GROUP_BYTES:
        found_shape = list(reader.shapes[values])
        raise self.misfit(reader, f"{values} has shape {found_shape}, expected rows of groups of {_GROUP_BYTES} bytes")
      self.check_shape(reader, scales, (*lead, groups), values)
      inner = 2 * _GROUP_BYTES * groups
      found[name] = Packed(
        parts=(values, scales),
        shape=(*lead[:-1], inner, lead[-1]),
        held=abstract_quantized((*lead, inner), FORM, np.float32, EXPONENTS),
        swapped=True,
        read=functools.partial(_read, reader, values, scales),
      )
    return found

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Experts, several in one tensor."""
    if len(shape) != 3 or shape[1] % (2 * _GROUP_BYTES):
      return None
    experts, inner, outs = shape
    return Piece(abstract_quantized((experts, outs, inner), FORM, np.float32, EXPONENTS), swapped=True)

  def objection(self, name: str, piece: Piece) -> str | None:
    """The tensor must have inputs before outputs."""
    weight, swapped = piece
    if weight.form != FORM or weight.scales.dtype != EXPONENTS or not swapped:
      return f"mxfp4 files hold no {weight.form.name} weights of {'inputs' if swapped else 'outputs'} first"
    return None

  def written_shapes(self, name: str, piece: Piece) -> dict[str, tuple[Shape, np.dtype]]:
    """Blocks and scales."""
    weight = piece.weight
    *lead, size = weight.values.shape
    blocks = (*lead, size // _GROUP_BYTES, _GROUP_BYTES)
    byte = np.dtype(np.uint8)
    return {name + _VALUES: (blocks, byte), name + _SCALES: (tuple(weight.scales.shape), byte)}

  def written(self, name: str, piece: Piece) -> dict[str, np.ndarray]:
    """Blocks and scales."""
    weight, (blocks, _) = piece.weight, self.written_shapes(name, piece)[name + _VALUES]
    return {name + _VALUES: weight.values.reshape(blocks), name + _SCALES: weight.scales.view(np.uint8)}


def _bases(reader: Reader) -> Iterator[str]:
  seen = set()
  for name in reader.dtypes:
    for suffix in (_VALUES, _SCALES):
      if name.endswith(suffix) and (base := name.removesuffix(suffix)) not in seen:
        seen.add(base)
        yield base


def _read(reader: Reader, values: str, scales: str) -> QuantizedWeight:
  blocks, exponents = reader.read(values), reader.read(scales)
  *lead, groups, size = blocks.shape
  return QuantizedWeight(
    values=blocks.reshape(*lead, groups * size),
    scales=exponents.view(EXPONENTS),
    form=FORM,
    matrix=(lead[-1], 2 * groups * size),
  )
