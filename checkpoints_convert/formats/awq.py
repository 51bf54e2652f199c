"""AWQ (arXiv 2306.00978), the form `gemm`: whole numbers of 4 bits, eight outputs in a 32-bit word, with zeros.

A linear layer `X` of weight [O, I] with groups of N inputs is held as `X.qweight` int32 [I, O / 8], `X.qzeros` int32
[I / N, O / 8] and `X.scales` [I / N, O]. Bits 4 j of word c belong to output 8 c + (0, 2, 4, 6, 1, 3, 5, 7)[j], and
weight[o, i] is (number - zero) * scale. Reference: AutoAWQ, `awq/utils/packing_utils.py`.
"""

import functools
from collections.abc import Mapping

import numpy as np

from checkpoints_convert.dtypes import FLOATS, STORED
from checkpoints_convert.formats.gptq import Words
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import Form, QuantizedWeight, abstract_quantized
from pallas_kernels.weights.layouts import packed

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_SUFFIX = ".qweight"


class AWQ(Format):
  """The layers of a checkpoint in words; the settings leave out what has none."""

  def __init__(self, name: str, group: int | None):
    self.name, self.words = name, Words(bits=4, group=group, symmetric=False)

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every layer of which there are words."""
    layers = [name.removesuffix(_SUFFIX) for name in reader.dtypes if name.endswith(_SUFFIX)]
    return {f"{layer}.weight": self._layer(reader, layer) for layer in layers}

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Every matrix, with zeros, and scales of float16."""
    form = self.words.form(shape[-1]) if len(shape) == 2 else None
    return None if form is None else Piece(abstract_quantized(shape, form, np.float32, np.float16, zeros=np.uint8))

  def _layer(self, reader: Reader, layer: str) -> Packed:
    names = [f"{layer}.{part}" for part in ("qweight", "qzeros", "scales")]
    for name, codes in zip(names, (("I32",), ("I32",), tuple(FLOATS)), strict=True):
      if name not in reader.dtypes:
        raise self.misfit(reader, f"{names[0]} has no {name} beside it")
      self.check_code(reader, name, codes)
    if len(reader.shapes[names[0]]) != 2:
      raise self.misfit(reader, f"{names[0]} has shape {list(reader.shapes[names[0]])}, expected a matrix")
    inner, columns = reader.shapes[names[0]]
    groups, outs = self.words.groups(inner), 8 * columns
    self.check_shape(reader, names[1], (groups, columns), names[0])
    self.check_shape(reader, names[2], (groups, outs), names[0])
    form = self.words.form(inner)
    if form is None:
      raise self.misfit(reader, f"groups of {self.words.group} inputs are no multiple of 16")
    scales = STORED[reader.dtypes[names[2]]]
    return Packed(
      parts=tuple(names),
      shape=(outs, inner),
      held=abstract_quantized((outs, inner), form, np.float32, scales, zeros=np.uint8),
      read=functools.partial(_read, reader, layer, form),
    )


def _read(reader: Reader, layer: str, form: Form) -> QuantizedWeight:
  numbers, zeros = (_by_output(reader.read(f"{layer}.{part}")) for part in ("qweight", "qzeros"))
  return QuantizedWeight(
    values=packed(numbers, form),
    scales=reader.read(f"{layer}.scales").T,
    zeros=zeros,
    form=form,
    matrix=(numbers.shape[0], numbers.shape[1]),
  )


def _by_output(words: np.ndarray) -> np.ndarray:
  """Numbers [out, in], one a byte, of words [in, out / 8]."""
  numbers = np.empty((8 * words.shape[1], len(words)), np.uint8)
  for place, output in enumerate(_ORDER):
    numbers[output::8] = (words.view(np.uint32) >> np.uint32(4 * place) & np.uint32(15)).T
  return numbers
