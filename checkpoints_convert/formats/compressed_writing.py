"""Quantised weights as the layers of compressed-tensors files, bit for bit, and what config.json says of them.

The inverse of what `compressed_tensors` reads. A layer is a matrix of outputs by inputs, whose tensor is called
`X.weight`. Reference: compressed_tensors 0.20, `compressors/*/base.py` and `quantization/quant_config.py`.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from checkpoints_convert.dtypes import FLOATS, FP8, STORED
from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.rules import Shape
from pallas_kernels import Form, QuantizedWeight

_WORD = np.dtype("<i4")
_EXPONENTS = np.dtype(ml_dtypes.float8_e8m0fnu)
_NVFP4, _MXFP4 = Form(code="e2m1", group=16), Form(code="e2m1", group=32)
_MXFP8 = Form(code="e4m3", group=32)
_SUFFIX = ".weight"
_SCALE_TYPES = {
  "mxfp4-pack-quantized": "torch.uint8",
  "mxfp8-quantized": "torch.uint8",
  "nvfp4-pack-quantized": "torch.float8_e4m3fn",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
  """How a layer is written, in the words of `config_groups`.

  Attributes:
    packing: the format of its tensors, such as `pack-quantized`.
    bits: of one number.
    kind: `int` or `float`.
    strategy: what shares a scale: `tensor`, `channel`, `group`, `block` or `tensor_group`.
    symmetric: whether there are no zeros.
    size: inputs that share a scale, with the strategies of groups.
    block: outputs and inputs that share a scale, with the strategy `block`.
  """

  packing: str
  bits: int
  kind: str
  strategy: str
  symmetric: bool = True
  size: int | None = None
  block: tuple[int, int] | None = None

  def settings(self, targets: list[str]) -> dict[str, Any]:
    """The entry of `config_groups` for the layers of those names, or names of classes."""
    more: dict[str, Any] = {} if self.block is None else {"block_structure": list(self.block)}
    if self.packing in _SCALE_TYPES:
      more["scale_dtype"] = _SCALE_TYPES[self.packing]
    weights = {
      "num_bits": self.bits,
      "type": self.kind,
      "symmetric": self.symmetric,
      "strategy": self.strategy,
      "group_size": self.size,
      "dynamic": False,
      **more,
    }
    return {
      "targets": targets,
      "weights": weights,
      "input_activations": None,
      "output_activations": None,
      "format": self.packing,
    }


def scheme_of(weight: QuantizedWeight) -> Scheme | None:
  """How a weight, of shapes and dtypes, is written; None where the package has no way to hold it."""
  form, scales = weight.form, np.dtype(weight.scales.dtype)
  if form.code in ("int8", "int4"):
    whole_zeros = weight.zeros is None or np.dtype(weight.zeros.dtype).kind in "iu"
    if weight.gains is not None or not whole_zeros or scales not in FLOATS.values():
      return None
    strategy = "channel" if form.group is None else "group"
    symmetric = weight.zeros is None
    return Scheme(
      packing="pack-quantized", bits=form.bits, kind="int", strategy=strategy, symmetric=symmetric, size=form.group
    )
  if weight.zeros is not None:
    return None
  if form == _NVFP4 and scales == STORED[FP8]:
    return Scheme(packing="nvfp4-pack-quantized", bits=4, kind="float", strategy="tensor_group", size=16)
  if weight.gains is not None:
    return None
  if form in (_MXFP4, _MXFP8) and scales == _EXPONENTS:
    packing = "mxfp4-pack-quantized" if form == _MXFP4 else "mxfp8-quantized"
    return Scheme(packing=packing, bits=form.bits, kind="float", strategy="group", size=32)
  if form.code != "e4m3" or scales not in FLOATS.values():
    return None
  if form.group is None:
    return Scheme(packing="float-quantized", bits=8, kind="float", strategy="channel")
  return Scheme(packing="float-quantized", bits=8, kind="float", strategy="block", block=(1, form.group))


def objection(name: str, weight: QuantizedWeight, *, swapped: bool) -> str | None:
  """Why no layer of the package holds the tensor `name`; None where one does."""
  if swapped or len(weight.shape) != 2 or not name.endswith(_SUFFIX):
    return "compressed-tensors holds matrices of layers, and not several in one tensor"
  if scheme_of(weight) is None:
    leaves = {"scales": weight.scales, "zeros": weight.zeros, "gains": weight.gains}
    beside = [f"{name} of {np.dtype(leaf.dtype)}" for name, leaf in leaves.items() if leaf is not None]
    return f"compressed-tensors has no {weight.form.name} weights with {' and '.join(beside)}"
  if weight.form.bits == 4 and weight.form.code == "e2m1" and weight.matrix[1] % 2:
    return "compressed-tensors packs pairs of 4-bit floats, and the inputs are an odd number"
  return None


def layer_shapes(name: str, weight: QuantizedWeight, scheme: Scheme) -> dict[str, tuple[Shape, np.dtype]]:
  """Shapes and dtypes of what `layer` makes, given the weight's own."""
  form, (outs, inner) = weight.form, weight.matrix
  groups, scales = form.groups(inner), np.dtype(weight.scales.dtype)
  byte = np.dtype(np.uint8)
  match scheme.packing:
    case "pack-quantized":
      found = {
        "_packed": ((outs, _words(inner, form.bits)), _WORD),
        "_scale": ((outs, groups), scales),
        "_shape": ((2,), np.dtype(np.int64)),
      }
      if not scheme.symmetric:
        found["_zero_point"] = (_words(outs, form.bits), groups), _WORD
    case "int-quantized":
      found = {"": ((outs, inner), np.dtype(np.int8)), "_scale": (_scale_shape(scheme, outs, groups), scales)}
      if not scheme.symmetric:
        found["_zero_point"] = _scale_shape(scheme, outs, groups), np.dtype(np.int8)
    case "float-quantized":
      found = {"": ((outs, inner), STORED[FP8]), "_scale": (_scale_shape(scheme, outs, groups), scales)}
    case "mxfp8-quantized":
      found = {"": ((outs, inner), STORED[FP8]), "_scale": ((outs, groups), byte)}
    case "mxfp4-pack-quantized":
      found = {"_packed": ((outs, inner // 2), byte), "_scale": ((outs, groups), byte)}
    case _:
      found = {"_packed": ((outs, inner // 2), byte), "_scale": ((outs, groups), scales)}
      found["_global_scale"] = (1,), np.dtype(np.float32)
  return {f"{name}{part}": kind for part, kind in found.items()}


def layer(name: str, weight: QuantizedWeight, scheme: Scheme) -> dict[str, np.ndarray]:
  """The layer's tensors by name.

  Raises CheckpointError where what shares a scale in the scheme has several.
  """
  form, (outs, inner) = weight.form, weight.matrix
  scales = weight.scales
  match scheme.packing:
    case "pack-quantized":
      found = {
        "_packed": _in_words(weight.values, inner, form),
        "_scale": scales,
        "_shape": np.array([outs, inner], np.int64),
      }
      if not scheme.symmetric:
        found["_zero_point"] = np.ascontiguousarray(_in_words(_zeros(weight), outs, form).T)
    case "int-quantized":
      found = {"": weight.values[:, :inner], "_scale": _shared(name, scales, scheme)}
      if not scheme.symmetric:
        found["_zero_point"] = _shared(name, weight.zeros, scheme)
    case "float-quantized":
      found = {"": weight.values[:, :inner].view(STORED[FP8]), "_scale": _shared(name, scales, scheme)}
    case "mxfp8-quantized":
      found = {"": weight.values[:, :inner].view(STORED[FP8]), "_scale": scales.view(np.uint8)}
    case "mxfp4-pack-quantized":
      found = {"_packed": weight.values[:, : inner // 2], "_scale": scales.view(np.uint8)}
    case _:
      found = {"_packed": weight.values[:, : inner // 2], "_scale": scales, "_global_scale": _divisor(name, weight)}
  return {f"{name}{part}": array for part, array in found.items()}


def _words(count: int, bits: int) -> int:
  """Words of 32 bits that `count` numbers fill."""
  return -(-count * bits // 32)


def _scale_shape(scheme: Scheme, outs: int, groups: int) -> Shape:
  if scheme.strategy == "tensor":
    return (1,)
  return (-(-outs // scheme.block[0]), groups) if scheme.block is not None else (outs, groups)


def _in_words(packed: np.ndarray, count: int, form: Form) -> np.ndarray:
  """The first `count` numbers of each row [rows, bytes] in words, of which unused bits are 0."""
  rows, used = len(packed), -(-count * form.bits // 8)
  words = np.zeros((rows, 4 * _words(count, form.bits)), np.uint8)
  # A word holds numbers without a sign, of which 128 is the middle.
  words[:, :used] = packed[:, :used].view(np.uint8) ^ (0x80 if form.bits == 8 else 0)
  if form.bits == 4 and count % 2:
    words[:, used - 1] &= 15
  return words.view(_WORD)


def _zeros(weight: QuantizedWeight) -> np.ndarray:
  """The numbers that mean 0 by group and output, packed along outputs as values are along inputs."""
  zeros = weight.zeros.T
  if weight.form.bits == 8:
    return np.ascontiguousarray(zeros)
  even = np.pad(zeros, [(0, 0), (0, zeros.shape[1] % 2)])
  return even[:, 0::2] | even[:, 1::2] << 4


def _shared(name: str, scales: np.ndarray, scheme: Scheme) -> np.ndarray:
  """One scale, or zero, of what shares one."""
  if scheme.strategy == "tensor":
    found = scales[:1, 0]
    same = found
  else:
    high = 1 if scheme.block is None else scheme.block[0]
    found = scales[::high]
    same = np.repeat(found, high, axis=0)[: len(scales)]
  if (same != scales).any():
    raise CheckpointError(f"{name}: scales differ within a {scheme.strategy} of config.json's: convert with 'orbax'")
  return found


def _divisor(name: str, weight: QuantizedWeight) -> np.ndarray:
  """The number that scales of 4-bit floats are divided by: the one whose reciprocal is the gain, or nearest it."""
  if weight.gains is None:
    return np.ones(1, np.float32)
  gain = np.float32(weight.gains.ravel()[0])
  if (weight.gains != gain).any():
    raise CheckpointError(f"{name}: outputs differ in a factor, of which NVFP4 has one a matrix: convert with 'orbax'")
  with np.errstate(divide="ignore"):
    near = np.float32(1) / gain
    tried = [near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(np.inf))]
    exact = [one for one in tried if np.float32(1) / one == gain]
  return np.array([exact[0] if exact else near], np.float32)


def describe(schemes: Mapping[str, Scheme], plain: Iterable[str]) -> dict[str, Any]:
  """`quantization_config` of layers' tensors by name, beside tensors `plain` that are linear layers too."""
  names: dict[Scheme, list[str]] = {}
  for name, scheme in schemes.items():
    names.setdefault(scheme, []).append(name.removesuffix(_SUFFIX))
  others = [name.removesuffix(_SUFFIX) for name in plain]
  everything = {*others, *(name for found in names.values() for name in found)}
  formats = {scheme.packing for scheme in names}
  groups = {
    # Some servers look up experts under their class, so one group has it.
    f"group_{number}": scheme.settings(["Linear"] if len(names) == 1 else [*_patterns(found, everything)])
    for number, (scheme, found) in enumerate(names.items())
  }
  head = [] if any(name.endswith("lm_head") for name in everything) else ["lm_head"]
  return {
    "quant_method": "compressed-tensors",
    "format": next(iter(formats)) if len(formats) == 1 else "mixed-precision",
    "quantization_status": "compressed",
    "global_compression_ratio": None,
    "kv_cache_scheme": None,
    "config_groups": groups,
    "ignore": [*_patterns(others, everything), *head],
  }


def _patterns(names: Collection[str], everything: Collection[str]) -> Iterator[str]:
  """Few patterns, or names, that match `names` and no more of `everything`.

  Layers and experts have numbers in their names: what is alike in all of them is one pattern, what is alike in all of a
  layer's experts is one for each layer.
  """
  left = set(names)
  for loosened in (_any_number, _any_but_the_first):
    others = {loosened(name) for name in {*everything} - {*names}}
    for pattern in sorted({loosened(name) for name in left} - others):
      matched = {name for name in left if loosened(name) == pattern}
      if len(matched) > 1:
        yield f"re:{pattern}$"
        left -= matched
  yield from sorted(left)


def _any_number(name: str) -> str:
  return re.sub(r"\\\.\d+(?=\\\.|$)", lambda _: r"\.\d+", re.escape(name))


def _any_but_the_first(name: str) -> str:
  first = re.match(r".*?\.\d+\.", name)
  return _any_number(name) if first is None else re.escape(first[0]) + _any_number(name[first.end() - 1 :])[2:]
