"""The formats of the compressed-tensors package: whole numbers of 4 and 8 bits, and floats of 8 and of 4.

A linear layer's `weight` X [O, I] is held in one of these ways, which types and shapes tell apart. What settings have
in `targets` and `ignore` is therefore not matched against names: a layer without scales is plain.

- `pack-quantized`: `X_packed` int32 [O, W], a stream of whole numbers q + 8 (8 bits: q + 128), the lowest bits first;
  `X_scale` [O, G]; `X_shape`; where zero is not the middle, `X_zero_point` int32, packed alike, but along outputs.
  w = (q - z) * scale.
- `int-quantized`: X int8 and `X_scale`. `float-quantized`: X e4m3 and `X_scale`, by output, block or matrix.
- `nvfp4-pack-quantized`, `mxfp4-pack-quantized`: `X_packed` uint8, see `float4`; `X_global_scale` divides scales.
- `mxfp8-quantized`: X e4m3, `X_scale` powers of two for every 32 inputs.

Reference: compressed_tensors 0.20, `compressors/*/base.py`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from checkpoints_convert.dtypes import E8M0, FLOATS, FP8, STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.formats import compressed_writing
from checkpoints_convert.formats.float4 import float4
from checkpoints_convert.formats.fp8 import Float8
from checkpoints_convert.formats.packed import Format, Packed
from checkpoints_convert.packed_rules import Piece
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape
from pallas_kernels import INT8, Form, QuantizedWeight, abstract_quantized
from pallas_kernels.weights.form import CODES

_WORD = 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
  """What a group of layers has in `config_groups`.

  Attributes:
    bits: of a number.
    size: inputs that share a scale, None where there is no such number.
    block: outputs and inputs that share a scale, likewise.
    kind: of a number, `int` or `float`.
    strategy: what shares a scale, such as `channel`.
    packing: the format of its tensors.
    symmetric: whether there are no zeros.
    targets: the layers, by names, regular expressions after `re:`, or classes.
  """

  bits: int
  size: int | None = None
  block: tuple[int, int] | None = None
  kind: str = "int"
  strategy: str | None = None
  packing: str | None = None
  symmetric: bool = True
  targets: tuple[str, ...] = ()

  def has(self, name: str) -> bool:
    """Whether the tensor's layer is named; one that is named by its class counts as any."""
    module = name.removesuffix(".weight")
    if "Linear" in self.targets or module in self.targets:
      return True
    return any(re.match(one.removeprefix("re:"), module) for one in self.targets if one.startswith("re:"))

  def weight(self, shape: Shape) -> QuantizedWeight | None:
    """What the layer's weight of that shape is held as; None where the settings do not say."""
    wide = self.size if self.size is not None and 0 < self.size <= shape[-1] else None
    if self.kind == "int" and self.bits in (4, 8):
      form = Form(code=f"int{self.bits}", group=None if wide is None or wide % 16 else wide)
      zeros = None if self.symmetric else np.int8 if self.bits == 8 else np.uint8
      scales = np.float32 if form == INT8 else FLOATS["BF16"]
      return abstract_quantized(shape, form, np.float32, scales, zeros=zeros)
    if self.bits == 4 and self.size in (16, 32):
      form, scales = Form(code="e2m1", group=self.size), STORED[FP8 if self.size == 16 else E8M0]
      return abstract_quantized(shape, form, np.float32, scales, gains=self.size == 16)
    if self.bits != 8:
      return None
    columns = wide if self.block is None else self.block[1] if self.block[1] < shape[-1] else None
    powers = self.packing == "mxfp8-quantized"
    return abstract_quantized(shape, Form(code="e4m3", group=columns), np.float32, STORED[E8M0 if powers else "F32"])


class CompressedTensors(Format):
  """The format `compressed-tensors` of config.json, with the groups of its layers."""

  name = "compressed-tensors"

  def __init__(self, groups: tuple[Group, ...]):
    self.groups = groups

  def expected(self, name: str, shape: Shape) -> Piece | None:
    """Every matrix in the first group that has its layer."""
    group = next((group for group in self.groups if group.has(name)), None)
    weight = None if group is None else group.weight(shape)
    return None if weight is None else Piece(weight)

  def objection(self, name: str, piece: Piece) -> str | None:
    """What layers cannot hold."""
    return compressed_writing.objection(name, piece.weight, swapped=piece.swapped)

  def written_shapes(self, name: str, piece: Piece) -> dict[str, tuple[Shape, np.dtype]]:
    """A layer's tensors."""
    return compressed_writing.layer_shapes(name, piece.weight, self.scheme(piece.weight))

  def written(self, name: str, piece: Piece) -> dict[str, np.ndarray]:
    """A layer's tensors; CheckpointError where scales differ in what has one in the settings."""
    return compressed_writing.layer(name, piece.weight, self.scheme(piece.weight))

  def scheme(self, weight: QuantizedWeight) -> compressed_writing.Scheme:
    """How a weight without `objection` is written: in the way of the group that has such numbers, if there is one."""
    found = compressed_writing.scheme_of(weight)
    assert found is not None, weight.form
    alike = (group for group in self.groups if (group.kind, group.bits) == (found.kind, found.bits))
    group = next(alike, None)
    if group is None:
      return found
    if found.packing == "pack-quantized" and group.packing in ("int-quantized", "naive-quantized"):
      found = dataclasses.replace(found, packing="int-quantized")
    if found.strategy == "channel" and group.strategy == "tensor" and found.packing != "pack-quantized":
      found = dataclasses.replace(found, strategy="tensor")
    if found.strategy == "block" and group.block is not None and group.block[1] == weight.form.group:
      found = dataclasses.replace(found, block=group.block)
    return found

  @property
  def distinct(self) -> bool:
    """Whether no two groups have numbers of the same kind, so that a weight's form tells its group."""
    kinds = [(group.kind, group.bits) for group in self.groups]
    return len({*kinds}) == len(kinds)

  def packed(self, reader: Reader) -> Mapping[str, Packed]:
    """Every layer's weight that has scales."""
    names, found = reader.dtypes, {}
    scales = [name for name in names if name.endswith("_scale") and not self.is_unread(name)]
    for scale in scales:
      name = scale.removesuffix("_scale")
      if name.endswith("_global"):
        continue
      values = f"{name}_packed" if f"{name}_packed" in names else name
      if values not in names:
        raise self.misfit(reader, f"{scale} has no {name}_packed or {name} beside it")
      one = self._layer(reader, name, values, scale)
      beside = [f"{name}_{part}" for part in ("shape", "zero_point", "g_idx", "global_scale")]
      found[name] = dataclasses.replace(one, parts=tuple({*one.parts, *(part for part in beside if part in names)}))
    for values in (name for name in names if name.endswith("_packed")):
      if (name := values.removesuffix("_packed")) not in found:
        raise self.misfit(reader, f"{values} has no {name}_scale beside it")
    return found

  def _layer(self, reader: Reader, name: str, values: str, scale: str) -> Packed:
    code = reader.dtypes[values]
    if code == FP8 and reader.dtypes[scale] == "U8":
      return self._mxfp8(reader, values, scale)
    if code == FP8:
      blocks = {group.block for group in self.groups if group.block is not None}
      return Float8(self.name, next(iter(blocks)) if len(blocks) == 1 else None).matrix(reader, values, scale)
    if code == "U8":
      factor = f"{name}_global_scale"
      return float4(self, reader, values, scale, factor if factor in reader.dtypes else None, divides=True)
    self.check_code(reader, values, ("I32", "I8", FP8, "U8"))
    self.check_code(reader, scale, tuple(FLOATS))
    return self._whole_numbers(reader, name, values, scale)

  def _mxfp8(self, reader: Reader, values: str, scale: str) -> Packed:
    *lead, columns = reader.shapes[values]
    form = Form(code="e4m3", group=32)
    self.check_shape(reader, scale, (*lead, form.groups(columns)), values)
    powers = STORED["F8_E8M0"]

    def read() -> QuantizedWeight:
      bits = np.pad(reader.read(values).view(np.uint8), [*((0, 0) for _ in lead), (0, -columns % 32)])
      scales, matrix = reader.read(scale).view(powers), (lead[-1], columns)
      return QuantizedWeight(values=bits, scales=scales, form=form, matrix=matrix)

    held = abstract_quantized((*lead, columns), form, np.float32, powers)
    return Packed(parts=(values, scale), shape=(*lead, columns), held=held, read=read)

  def _whole_numbers(self, reader: Reader, name: str, values: str, scale: str) -> Packed:
    shape, bits = self._shape(reader, name, values)
    *lead, rows, columns = shape
    form = Form(code=f"int{bits}", group=None)
    found = reader.shapes[scale]
    if found not in ((1,), ()):
      if len(found) != len(shape) or found[:-1] != (*lead, rows):
        raise self.misfit(reader, f"{scale} has shape {list(found)}, expected rows {[*lead, rows]} for {name}")
      size = self._group_size(columns, found[-1], bits)
      if size is None:
        raise self.misfit(reader, f"{scale} has {found[-1]} scales for {columns} inputs of {name}")
      grouped = size < columns or self._in_groups(size, bits)
      form = Form(code=form.code, group=size) if grouped and size % 16 == 0 else form
      if form.groups(columns) != found[-1]:
        raise self._unsupported(reader, "group_size", size, "a multiple of 16")
    zeros = f"{name}_zero_point" if f"{name}_zero_point" in reader.dtypes else None
    scale_type = np.dtype(np.float32) if form == INT8 else STORED[reader.dtypes[scale]]
    zero_type = None if zeros is None else np.int8 if bits == 8 else np.uint8
    index = f"{name}_g_idx" if f"{name}_g_idx" in reader.dtypes else None
    return Packed(
      parts=(values, scale),
      shape=shape,
      held=abstract_quantized(shape, form, np.float32, scale_type, zeros=zero_type),
      read=functools.partial(self._read, reader, (values, scale, zeros, index), form, shape, scale_type),
    )

  def _shape(self, reader: Reader, name: str, values: str) -> tuple[Shape, int]:
    """The weight's shape, and the bits of its numbers."""
    found = reader.shapes[values]
    if reader.dtypes[values] == "I8":
      return found, 8
    if f"{name}_shape" not in reader.dtypes:
      raise self.misfit(reader, f"{values} has no {name}_shape beside it")
    *lead, rows, columns = (int(size) for size in reader.read(f"{name}_shape"))
    fits = [bits for bits in range(1, 9) if -(-columns * bits // _WORD) == found[-1]]
    named = {group.bits for group in self.groups}
    bits = next((bits for bits in fits if bits in named), None)
    if bits is None or found[:-1] != (*lead, rows):
      raise self.misfit(
        reader, f"{values} has shape {list(found)}, which does not hold {[*lead, rows, columns]} numbers"
      )
    if bits not in (4, 8):
      raise self._unsupported(reader, "num_bits", bits, "4 and 8")
    return (*lead, rows, columns), bits

  def _group_size(self, columns: int, scales: int, bits: int) -> int | None:
    """How many inputs share a scale; None where none of the settings fits."""
    sizes = sorted(group.size for group in self.groups if group.size and group.size > 0 and group.bits == bits)
    if scales == 1:
      wide = [size for size in sizes if size >= columns]
      return wide[0] if wide and self._in_groups(wide[0], bits) else columns
    return next((size for size in sizes if -(-columns // size) == scales), None)

  def _in_groups(self, size: int, bits: int) -> bool:
    """Whether one scale of all inputs is that of a group of `size`, and cannot be that of an output."""
    alike = [group.size for group in self.groups if group.bits == bits and group.kind == "int"]
    return bool(alike) and size in alike and all(one is not None and one > 0 for one in alike)

  def _unsupported(self, reader: Reader, key: str, value: Any, supported: str) -> CheckpointError:
    return CheckpointError(
      f"{reader.directory}: config.json has compressed-tensors weights of {key} {value}: not supported; supported: "
      f"{supported}"
    )

  def _read(
    self,
    reader: Reader,
    parts: tuple[str, str, str | None, str | None],
    form: Form,
    shape: Shape,
    scale_type: np.dtype,
  ) -> QuantizedWeight:
    values, scale, zeros, index = parts
    rows, columns = shape[-2:]
    if index is not None:
      self._check_order(reader, index, form)
    numbers = reader.read(values)
    stored = _bytes_of(numbers, form) if numbers.dtype == np.int32 else numbers
    size = form.values_shape(shape)[-1]
    scales = reader.read(scale).astype(scale_type, copy=False)
    return QuantizedWeight(
      values=_cut_or_filled(stored, size, form),
      scales=np.broadcast_to(scales, form.scales_shape(shape)) if scales.size == 1 else scales,
      zeros=None if zeros is None else self._zeros(reader, zeros, form, shape),
      form=form,
      matrix=(rows, columns),
    )

  def _zeros(self, reader: Reader, name: str, form: Form, shape: Shape) -> np.ndarray:
    """The stored numbers that mean 0 [..., O, G]."""
    found, expected = reader.read(name), form.scales_shape(shape)
    if found.dtype != np.int32:
      offset = CODES[form.code].zero
      whole = found.reshape(expected) if found.size == math.prod(expected) else np.broadcast_to(found, expected)
      return (whole.astype(np.int16) + offset).astype(np.int8 if form.bits == 8 else np.uint8)
    # Words along outputs: their bytes are turned to lie along the last axis.
    packed = _bytes_of(np.ascontiguousarray(found.swapaxes(-1, -2)), form)
    numbers = (
      packed if form.bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    )
    return numbers[..., : shape[-2]].swapaxes(-1, -2).reshape(expected)

  def _check_order(self, reader: Reader, index: str, form: Form) -> None:
    """Raises CheckpointError where groups are not consecutive inputs."""
    order = reader.read(index)
    if (order >= 0).all() and (order != np.arange(len(order)) // (form.group or len(order))).any():
      raise self._unsupported(reader, "actorder", "group", f"none, or 'weight' ({index} reorders inputs)")


def _bytes_of(words: np.ndarray, form: Form) -> np.ndarray:
  """Packed words as bytes, the lowest first, whose numbers mean what the code says."""
  found = words.astype("<i4", copy=False).view(np.uint8)
  return (found ^ 0x80).view(np.int8) if form.bits == 8 else found


def _cut_or_filled(stored: np.ndarray, size: int, form: Form) -> np.ndarray:
  """The bytes of whole words as those of whole groups."""
  zero = CODES[form.code].zero
  fill = zero if form.bits == 8 else zero | zero << 4
  missing = [*((0, 0) for _ in stored.shape[:-1]), (0, max(0, size - stored.shape[-1]))]
  return np.pad(stored, missing, constant_values=fill) if missing[-1][1] else stored[..., :size]
