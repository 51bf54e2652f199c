"""Quantised weights in files: which tensors make up one of the model's, and how they are dequantised.

Families' rules name the tensors of a model, not those that a quantised file has in their place. `Tensors` shows the
files as if they held the model's tensors, and dequantises each when it is read.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from checkpoints_convert.dtypes import FLOATS, FP8
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.reader import Reader
from checkpoints_convert.rules import Shape

Dequantise: TypeAlias = Callable[[np.ndarray, np.ndarray, np.dtype], np.ndarray]

_BLOCK = (128, 128)
_GROUP_BYTES = 16
# How many numbers are float32 at a time, on their way to the wanted dtype.
_CHUNK = 1 << 21

_FP8_VALUES = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_FP4_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FP4_VALUES = np.array([*_FP4_MAGNITUDES, *(-value for value in _FP4_MAGNITUDES)], np.float32)
# The two values of each byte, its low four bits first.
_FP4_PAIRS = _FP4_VALUES[np.stack([np.arange(256) & 15, np.arange(256) >> 4], axis=-1)]
# Powers of two without a sign or fraction; the last is no number (OCP Microscaling Formats 1.0, section 5.4.1).
_E8M0_VALUES = np.append(np.ldexp(np.float32(1), np.arange(-127, 128)), np.float32(np.nan)).astype(np.float32)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Format:
  """A tensor `X` of the model that files hold as two: `X` + `values`, and `X` + `scales`.

  Attributes:
    name: the `quant_method` of config.json's `quantization_config`.
    values, scales: suffixes of the two tensors' names.
    value_types, scale_types: type codes that each may have. Where `values` is empty, the code alone tells that a
      tensor is quantised.
    shapes: from the shape of the values to those of `X` and of the scales; ValueError where it cannot be.
    dequantise: makes `X` of values and scales in a dtype. Each number is one float32 product, rounded once.
  """

  name: str
  values: str
  scales: str
  value_types: tuple[str, ...]
  scale_types: tuple[str, ...]
  shapes: Callable[[Shape], tuple[Shape, Shape]]
  dequantise: Dequantise

  def name_of(self, tensor: str, code: str) -> str | None:
    """`X` for each of its two tensors, None for one that is not quantised."""
    if tensor.endswith(self.scales):
      return tensor.removesuffix(self.scales)
    if tensor.endswith(self.values) and (self.values or code in self.value_types):
      return tensor.removesuffix(self.values)
    return None


def fp8(block: tuple[int, int] = _BLOCK) -> Format:
  """8-bit floats (e4m3) with a factor for each block of a matrix, as DeepSeek-V3 has them (arXiv 2412.19437, 3.3)."""
  return Format(
    name="fp8",
    values="",
    scales="_scale_inv",
    value_types=(FP8,),
    scale_types=tuple(FLOATS),
    shapes=functools.partial(_block_shapes, block),
    dequantise=functools.partial(dequantise_fp8, block=block),
  )


def _block_shapes(block: tuple[int, int], shape: Shape) -> tuple[Shape, Shape]:
  if len(shape) < 2:
    raise ValueError("expected a matrix, or several")
  *lead, rows, columns = shape
  return shape, (*lead, -(-rows // block[0]), -(-columns // block[1]))


def dequantise_fp8(
  values: np.ndarray, scales: np.ndarray, dtype: np.dtype, *, block: tuple[int, int] = _BLOCK
) -> np.ndarray:
  """values[..., i, j] * scales[..., i // block[0], j // block[1]]; blocks at the edges may be cut short."""
  out = np.empty(values.shape, dtype)
  codes = values.view(np.uint8)
  *lead, rows, columns = values.shape
  for matrix in np.ndindex(*lead):
    for row, start in enumerate(range(0, rows, block[0])):
      part = (*matrix, slice(start, start + block[0]))
      factors = np.repeat(scales[(*matrix, row)].astype(np.float32), block[1])[:columns]
      numbers = _FP8_VALUES[codes[part]]
      numbers *= factors
      out[part] = numbers
  return out


def _group_shapes(shape: Shape) -> tuple[Shape, Shape]:
  if len(shape) < 3 or shape[-1] != _GROUP_BYTES:
    raise ValueError(f"expected rows of groups of {_GROUP_BYTES} bytes")
  *lead, rows, groups, _ = shape
  return (*lead, 2 * _GROUP_BYTES * groups, rows), (*lead, rows, groups)


def dequantise_mxfp4(values: np.ndarray, scales: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """Rows [..., N, G, 16] with exponents [..., N, G] as a matrix [..., 32 G, N]: files hold it transposed.

  As `convert_moe_packed_tensors` of transformers, whose model has inputs before outputs.
  """
  *lead, rows, groups, _ = values.shape
  out = np.empty((int(np.prod(lead)) * rows, groups, 2 * _GROUP_BYTES), dtype)
  blocks, exponents = values.reshape(-1, groups, _GROUP_BYTES), scales.reshape(-1, groups)
  step = max(1, _CHUNK // max(1, groups * 2 * _GROUP_BYTES))
  for start in range(0, len(out), step):
    part = slice(start, start + step)
    numbers = _FP4_PAIRS[blocks[part]].reshape(-1, groups, 2 * _GROUP_BYTES)
    with np.errstate(over="ignore"):  # the largest exponents lead to infinity, as the format has it
      numbers *= _E8M0_VALUES[exponents[part], np.newaxis]
    out[part] = numbers
  return out.reshape(*lead, rows, groups * 2 * _GROUP_BYTES).swapaxes(-1, -2)


MXFP4 = Format(
  name="mxfp4",
  values="_blocks",
  scales="_scales",
  value_types=("U8",),
  scale_types=("U8",),
  shapes=_group_shapes,
  dequantise=dequantise_mxfp4,
)
"""4-bit floats (e2m1), 32 of a row sharing a power of two, as gpt-oss has its experts (arXiv 2508.10925)."""


def format_of(config: Mapping[str, Any], where: object) -> Format | None:
  """The format that config.json describes, None where it has no `quantization_config`."""
  settings = quantization_settings(config, where)
  if settings is None:
    return None
  match settings.get("quant_method"):
    case "mxfp4":
      return MXFP4
    case "fp8":
      block = settings.get("weight_block_size", _BLOCK)
      for key, value, supported in (("fmt", "e4m3", "e4m3"), ("activation_scheme", "dynamic", "dynamic")):
        if settings.get(key, value) != value:
          raise _unsupported(where, key, settings[key], supported)
      if not isinstance(block, list | tuple) or len(block) != 2 or not all(isinstance(n, int) and n > 0 for n in block):
        raise _unsupported(where, "weight_block_size", block, "two whole numbers, such as [128, 128]")
      return fp8((block[0], block[1]))
    case method:
      raise _unsupported(where, "quant_method", method, "fp8, mxfp4")


def quantization_settings(config: Mapping[str, Any], where: object) -> Mapping[str, Any] | None:
  """`quantization_config` of config.json, None where there is none; CheckpointError where it is no object."""
  settings = config.get("quantization_config")
  if settings is not None and not isinstance(settings, Mapping):
    raise CheckpointError(
      f"{where}: config.json sets quantization_config to {settings!r}: expected an object, such as "
      '{"quant_method": "fp8"}, or nothing where the weights are not quantised'
    )
  return settings


def _unsupported(where: object, key: str, value: Any, supported: str) -> CheckpointError:
  return CheckpointError(
    f"{where}: config.json sets quantization_config.{key} to {value!r}: not supported; supported: {supported}"
  )


class Tensors:
  """A checkpoint's tensors under the model's names, quantised ones dequantised when they are read.

  Attributes:
    shapes: shape of every tensor.
    dtypes: its type code. A quantised tensor counts as bfloat16, which can hold every 8-bit float.
  """

  def __init__(self, reader: Reader, form: Format | None):
    self._reader, self._format = reader, form
    self._quantised = {} if form is None else _quantised(reader, form)
    made = {part for parts in self._quantised.values() for part in parts}
    self.shapes: dict[str, Shape] = {name: shape for name, shape in reader.shapes.items() if name not in made}
    self.dtypes: dict[str, str] = {name: _plain(reader.dtypes[name]) for name in self.shapes}
    if form is not None:
      for name, (values, _) in self._quantised.items():
        self.shapes[name], self.dtypes[name] = form.shapes(reader.shapes[values])[0], "BF16"

  def read(self, name: str, dtype: np.dtype) -> np.ndarray:
    """One tensor: as its file has it, or, where it is quantised, in `dtype`; not to be written to."""
    parts = self._quantised.get(name)
    if parts is None or self._format is None:
      return self._reader.read(name)
    values, scales = map(self._reader.read, parts)
    return self._format.dequantise(values, scales, dtype)


def _plain(code: str) -> str:
  return "BF16" if code == FP8 else code


def _quantised(reader: Reader, form: Format) -> dict[str, tuple[str, str]]:
  """Each quantised tensor with the names of its two, once types and shapes are checked."""
  named = {name: form.name_of(name, code) for name, code in reader.dtypes.items()}
  found = {name: (name + form.values, name + form.scales) for name in named.values() if name is not None}
  for name, parts in found.items():
    for part, codes in zip(parts, (form.value_types, form.scale_types), strict=True):
      if part not in reader.dtypes:
        other = next(each for each in parts if each != part)
        raise _misfit(reader, form, f"{other} has no {part} beside it")
      if reader.dtypes[part] not in codes:
        raise _misfit(reader, form, f"{part} has type {reader.dtypes[part]}, expected {' or '.join(codes)}")
    if name in reader.dtypes and form.values:
      raise _misfit(reader, form, f"{name} is there a second time, as {' and '.join(parts)}")
    values, scales = parts
    try:
      _, expected = form.shapes(reader.shapes[values])
    except ValueError as error:
      raise _misfit(reader, form, f"{values} has shape {list(reader.shapes[values])}, {error}") from error
    if reader.shapes[scales] != expected:
      raise _misfit(
        reader, form, f"{scales} has shape {list(reader.shapes[scales])}, expected {list(expected)} for {values} "
        f"{list(reader.shapes[values])}"
      )  # fmt: skip
  return found


def _misfit(reader: Reader, form: Format, what: str) -> CheckpointError:
  return CheckpointError(
    f"{reader.directory}: the weights do not fit config.json's quant_method {form.name!r}: {what}: "
    "download the checkpoint again"
  )
