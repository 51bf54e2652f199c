"""GPTQ (arXiv 2210.17323): whole numbers of 4 or 8 bits in 32-bit words along inputs, as GPTQModel and AutoRound write.

A linear layer `X` of weight [O, I], with B bits and groups of N inputs, is held as

- `X.qweight` int32 [I B / 32, O]: input (32 / B) r + j is in bits B j of word r;
- `X.scales` [I / N, O], and `X.qzeros` int32 [I / N, O B / 32], whose words lie along outputs;
- `X.g_idx` int32 [I], the group of each input; it may be absent where groups are consecutive.

weight[o, i] is (number - zero) * scale of the input's group. Files of `checkpoint_format` gptq, the first, hold zeros
less one, as whole words; those of gptq_v2 hold them as they are. Reference: GPTQModel, `gptqmodel/utils/model.py` and
`nn_modules/qlinear/__init__.py`.

Where inputs were quantised in the order of their activations (`desc_act`), a group's inputs lie anywhere. No `Form`
says so, and such a weight is dequantised.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from checkpoints_convert.dtypes import FLOATS, STORED
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import Form, QuantizedWeight, abstract_quantized
from pallas_kernels.weights.layouts import filled

BITS = (4, 8)
_CODES = {4: "int4", 8: "int8"}
_SUFFIX = ".qweight"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Words:
  """How one layer is quantised.

  Attributes:
    bits: of a number, one of `BITS`.
    group: consecutive inputs that share a scale; None is all.
    symmetric: whether every zero is the middle of the range.
  """

  bits: int
  group: int | None
  symmetric: bool

  @property
  def in_word(self) -> int:
    """Numbers that a word holds."""
    return 32 // self.bits

  def groups(self, inner: int) -> int:
    """Scales of one output of `inner` inputs."""
    return 1 if self.group is None else -(-inner // self.group)

  def form(self, inner: int) -> Form | None:
    """The form that holds such a weight; None where groups are no multiple of 16."""
    if self.group is None or self.group > inner:
      return Form(code=_CODES[self.bits])
    return Form(code=_CODES[self.bits], group=self.group) if self.group % 16 == 0 else None


class GPTQ(Format):
  """The layers of a checkpoint in words.

  `less_one` tells whether zeros are held less one, `ordered` whether groups follow the order of activations. `words_of`
  says how the layer of that name is quantised, None where the settings say that it is not.
  """

  def __init__(self, name: str, words_of: Callable[[str], Words | None], *, less_one: bool, ordered: bool):
    self.name, self.words_of, self.less_one, self.ordered = name, words_of, less_one, ordered

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every layer of which there are words."""
    layers = [name.removesuffix(_SUFFIX) for name in reader.dtypes if name.endswith(_SUFFIX)]
    return {f"{layer}.weight": self._layer(reader, layer) for layer in layers}

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Every matrix that the settings do not leave out, with scales of float16."""
    words, inner = self.words_of(name.removesuffix(".weight")), shape[-1]
    if words is None or len(shape) != 2 or (self.ordered and words.groups(inner) > 1):
      return None
    form, zeros = words.form(inner), None if words.symmetric else np.uint8 if words.bits == 4 else np.int8
    return None if form is None else Piece(abstract_quantized(shape, form, np.float32, np.float16, zeros=zeros))

  def _layer(self, reader: Reader, layer: str) -> Packed:
    names = [f"{layer}.{part}" for part in ("qweight", "qzeros", "scales")]
    words = self.words_of(layer)
    if words is None:
      raise self.misfit(reader, f"the settings leave {layer} as it is, and there is {names[0]}")
    for name, codes in zip(names, (("I32",), ("I32",), tuple(FLOATS)), strict=True):
      if name not in reader.dtypes:
        raise self.misfit(reader, f"{names[0]} has no {name} beside it")
      self.check_code(reader, name, codes)
    rows, outs = _matrix(self, reader, names[0])
    inner = rows * words.in_word
    self.check_shape(reader, names[2], (words.groups(inner), outs), names[0])
    self.check_shape(reader, names[1], (words.groups(inner), -(-outs // words.in_word)), names[0])
    order = f"{layer}.g_idx"
    if order in reader.dtypes:
      self.check_shape(reader, order, (inner,), names[0])
      names.append(order)
    form = None if self.ordered and words.groups(inner) > 1 else words.form(inner)
    zeros = None if words.symmetric else np.uint8 if words.bits == 4 else np.int8
    scales = STORED[reader.dtypes[names[2]]]
    return Packed(
      parts=tuple(names),
      shape=(outs, inner),
      held=None if form is None else abstract_quantized((outs, inner), form, np.float32, scales, zeros=zeros),
      read=None if form is None else functools.partial(self._read, reader, layer, words, form),
      dequantise=functools.partial(self._dequantise, reader, layer, words) if form is None else None,
      why="the inputs of a group lie anywhere, in the order of their activations (desc_act)"
      if self.ordered
      else f"{words.group} inputs share a scale, which is no multiple of 16",
    )

  def _read(self, reader: Reader, layer: str, words: Words, form: Form) -> QuantizedWeight:
    # Eight or four numbers of an output lie in a word in the order of their bits, and so do its bytes.
    values = np.ascontiguousarray(reader.read(f"{layer}.qweight").T).view(np.uint8)
    zeros, scales = self._zeros(reader, layer, words), reader.read(f"{layer}.scales")
    outs, inner = len(values), values.shape[1] * 8 // words.bits
    order = f"{layer}.g_idx"
    if order in reader.dtypes and words.groups(inner) > 1:
      self._check_order(reader.read(order), words, reader, order)
    if words.bits == 8:
      # Numbers without a sign, of which 128 is the middle.
      values, zeros = (values ^ 128).view(np.int8), (zeros ^ 128).view(np.int8)
    fill = 0 if words.bits == 8 else 0x88
    return QuantizedWeight(
      values=filled(values, form.values_shape((outs, inner)), fill),
      scales=scales.T,
      zeros=None if words.symmetric else zeros.T,
      form=form,
      matrix=(outs, inner),
    )

  def _zeros(self, reader: Reader, layer: str, words: Words) -> np.ndarray:
    """The zeros [groups, out] as files of the second form hold them."""
    packed = reader.read(f"{layer}.qzeros").view(np.uint32)
    if self.less_one:
      # In whole words: what takes one off a zero of 0 borrows from the next.
      packed = packed + np.uint32(0x11111111 if words.bits == 4 else 0x01010101)
    bytewise = np.ascontiguousarray(packed).view(np.uint8)
    zeros = bytewise
    if words.bits == 4:
      zeros = np.stack([bytewise & 15, bytewise >> 4], axis=-1).reshape(len(bytewise), -1)
    zeros = zeros[:, : reader.shapes[f"{layer}.scales"][1]]
    middle = 1 << words.bits - 1
    if words.symmetric and (zeros != middle).any():
      other = int(zeros[zeros != middle][0])
      raise self.misfit(reader, f"{layer}.qzeros holds {other}, where settings with sym true mean {middle}")
    return zeros

  def _check_order(self, order: np.ndarray, words: Words, reader: Reader, name: str) -> None:
    if (order != np.arange(order.size) // (words.group or order.size)).any():
      raise self.misfit(reader, f"{name} mixes the inputs of groups, where settings without desc_act mean their order")

  def _dequantise(self, reader: Reader, layer: str, words: Words, dtype: np.dtype) -> np.ndarray:
    values = np.ascontiguousarray(reader.read(f"{layer}.qweight").T).view(np.uint8)
    if words.bits == 4:
      values = np.stack([values & 15, values >> 4], axis=-1).reshape(len(values), -1)
    inner, order = values.shape[1], f"{layer}.g_idx"
    groups = reader.read(order) if order in reader.dtypes else np.arange(inner) // (words.group or inner)
    scales = reader.read(f"{layer}.scales").astype(np.float32)
    if groups.min(initial=0) < 0 or groups.max(initial=0) >= len(scales):
      raise self.misfit(reader, f"{order} names groups that {layer}.scales does not have")
    zeros = self._zeros(reader, layer, words).astype(np.float32)
    return ((values - zeros.T[:, groups]) * scales.T[:, groups]).astype(dtype)


def _matrix(form: Format, reader: Reader, name: str) -> tuple[int, int]:
  """The shape of a tensor that must be a matrix."""
  shape = reader.shapes[name]
  if len(shape) != 2:
    raise form.misfit(reader, f"{name} has shape {list(shape)}, expected a matrix")
  return shape[0], shape[1]
