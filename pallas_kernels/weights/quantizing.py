"""Quantises weights of floating point, from their numbers alone: no text is run through the model.

Eight bits take an output's largest magnitude for their largest number. With four bits the scale matters more: it is
searched for in each group, among scales that send the group's largest magnitude to about the end of the range. Each
gives whole numbers q, and for those the scale of the least squared error is sum(x q) / sum(q q), which explains
sum(x q)^2 / sum(q q) of the group's sum of squares. The scale that explains most is taken, with the numbers nearest to
it. The search is that of llama.cpp's `make_qx_quants`, on both sides of zero and without weights for its errors.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Num
from numpy.typing import DTypeLike

from pallas_kernels.checks import require
from pallas_kernels.cpu.huge_pages import aligned_empty
from pallas_kernels.cpu.library import call_on_arrays
from pallas_kernels.weights.form import CODES, INT8, Form
from pallas_kernels.weights.layouts import by_block, by_output, packed, relaid, unpacked
from pallas_kernels.weights.quantized import QuantizedWeight

# Elements taken at a time, so that their float32 copies stay in the processor's cache.
_BLOCK = 1 << 18

ENDS = (8.0, *(7 + step / 5 for step in range(11) if step != 5), *(-6.6 - step / 5 for step in range(9)))
"""Where the search for a scale of four bits sends a group's largest magnitude: to the side of -8, or to that of 7.

The first stands unless another is better, so that weights which are multiples of eighths of it are held exactly.
"""
_BETTER = np.float32(1 + 2**-20)

Rounded = tuple[Num[np.ndarray, "R I"], Num[np.ndarray, "R G"]]


def quantize(weight: Num[np.ndarray, "*stack O I"], form: Form = INT8) -> QuantizedWeight:
  """The weight in the form, symmetric, as NumPy arrays; makes no float32 copy of the whole.

  A group of zeros has scale 1. Takes float32, bfloat16 and float16. Scales are float32 with eight bits and bfloat16
  with four, whose range no weight leaves.

  Raises:
    ValueError: `weight` holds NaN or infinity, or the form's code is one of floats, which only files hold.
  """
  require(
    form.code in _ROUNDED, "form", form, f"a form of {' or '.join(_ROUNDED)}", "floats are kept as files hold them"
  )
  native = _natively(weight, form)
  return _by_numpy(weight, form) if native is None else native


def _by_numpy(weight: Num[np.ndarray, "*stack O I"], form: Form) -> QuantizedWeight:
  *_, outs, inner = weight.shape
  rows = weight.reshape(-1, inner)
  rounded, scale_type = _ROUNDED[form.code]
  flat = relaid(form, "rows")
  values = aligned_empty((len(rows), flat.inputs(inner) // form.in_byte), np.dtype(flat.values_dtype))
  scales = aligned_empty((len(rows), form.groups(inner)), scale_type)
  step = max(1, _BLOCK // max(1, inner))
  for start in range(0, len(rows), step):
    taken = slice(start, start + step)
    block = rows[taken].astype(np.float32)
    if not np.isfinite(block).all():
      raise _not_finite(form)
    numbers, scales[taken] = rounded(block, form)
    values[taken] = packed(numbers, flat)
  flat_shape = (*weight.shape[:-1], -1)
  made = QuantizedWeight(
    values=values.reshape(flat_shape),
    scales=scales.reshape(flat_shape),
    form=flat,
    matrix=(outs, inner),
    numbers=weight.dtype.name,
  )
  return relayout(made, form.layout)


def _natively(weight: Num[np.ndarray, "*stack O I"], form: Form) -> QuantizedWeight | None:
  """The same by native code, where it knows form and dtype; sums in another order may choose another scale."""
  narrow = weight.dtype == jnp.bfloat16
  if form.code != "int4" or (form.group or 2048) > 1024 or not (narrow or weight.dtype == np.float32):
    return None
  wanted, form = form.layout, relaid(form, "rows" if form.layout == "tiles" else form.layout)
  shape, weight, ends = weight.shape, np.ascontiguousarray(weight), np.array(ENDS, np.float32)
  values, scales = (
    aligned_empty(sizes, dtype)
    for sizes, dtype in ((form.values_shape(shape), np.uint8), (form.scales_shape(shape), jnp.bfloat16))
  )
  matrices, interleaved = math.prod(shape[:-2]), int(form.layout == "interleaved")
  done = call_on_arrays(
    "quantize", weight, int(narrow), matrices, *shape[-2:], form.group, ends, ends.size, interleaved, values, scales
  )
  if done == 0:
    raise _not_finite(form)
  matrix, numbers = (shape[-2], shape[-1]), weight.dtype.name
  made = QuantizedWeight(values=values, scales=scales, form=form, matrix=matrix, numbers=numbers)
  return None if done is None else relayout(made, wanted)


def _not_finite(form: Form) -> ValueError:
  return ValueError(f"a weight that is NaN or infinite has no {form.bits}-bit form: load it in floating point")


def abstract_quantized(
  shape: tuple[int, ...],
  form: Form,
  dtype: DTypeLike,
  scales: DTypeLike | None = None,
  *,
  zeros: DTypeLike | None = None,
  gains: bool = False,
) -> QuantizedWeight:
  """What `quantize` makes of a weight of that shape and dtype, as shapes and dtypes.

  `scales` is the dtype of the scales of a weight that files hold quantised; None is that of `quantize`. Such a weight
  may have zeros, of the dtype `zeros`, and gains.
  """

  def leaf(form: Form, dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(form.scales_shape(shape), np.dtype(dtype))

  return QuantizedWeight(
    values=jax.ShapeDtypeStruct(form.values_shape(shape), np.dtype(form.values_dtype)),
    scales=leaf(form, _ROUNDED[form.code][1] if scales is None else scales),
    zeros=None if zeros is None else leaf(form, zeros),
    gains=leaf(dataclasses.replace(form, group=None), np.float32) if gains else None,
    form=form,
    matrix=(shape[-2], shape[-1]),
    numbers=np.dtype(dtype).name,
  )


def relayout(weight: QuantizedWeight, layout: str) -> QuantizedWeight:
  """A weight of NumPy arrays in another layout of `Form`, of the same numbers and scales."""
  if layout == weight.form.layout:
    return weight
  old, new, shape = weight.form, relaid(weight.form, layout), weight.shape
  values = aligned_empty(new.values_shape(shape), np.dtype(new.values_dtype))
  if (moved_natively := _interleaved_natively(weight, new, values)) is not None:
    return moved_natively
  # One of a stack at a time: unpacked, four bits are eight.
  for index in np.ndindex(*shape[:-2]):
    values[index] = packed(unpacked(weight.values[index], old, weight.matrix), new)

  def moved(array: np.ndarray | None, group: int | None) -> np.ndarray | None:
    if array is None:
      return None
    outs, inner = weight.matrix
    before, after = (dataclasses.replace(form, group=group) for form in (old, new))
    return by_block(by_output(array, before, outs)[..., : before.groups(inner)], after, shape)

  scales, zeros, gains = moved(weight.scales, old.group), moved(weight.zeros, old.group), moved(weight.gains, None)
  return dataclasses.replace(weight, values=values, scales=scales, zeros=zeros, gains=gains, form=new)


def _interleaved_natively(weight: QuantizedWeight, new: Form, values: np.ndarray) -> QuantizedWeight | None:
  """`relayout` of four bits from `rows` by native code, into `values`; None for all else."""
  if new.code != "int4" or new.layout != "interleaved" or weight.scales.itemsize != 2:
    return None
  if weight.zeros is not None or weight.gains is not None:
    return None
  (outs, inner), matrices = weight.matrix, math.prod(weight.shape[:-2])
  scales = aligned_empty(new.scales_shape(weight.shape), weight.scales.dtype)
  given = [np.ascontiguousarray(array) for array in (weight.values, weight.scales)]
  sizes = (matrices, outs, new.inputs(inner), new.groups(inner))
  if call_on_arrays("interleave", *sizes, *given, values, scales) is None:
    return None
  return dataclasses.replace(weight, values=values, scales=scales, form=new)


def _to_the_largest(block: Float[np.ndarray, "R I"], form: Form) -> Rounded:
  """Whole multiples of each group's largest magnitude over the largest number."""
  rows, inner = block.shape
  groups = _in_groups(block, form)
  largest = np.abs(groups).max(axis=2, initial=0.0)
  # Subnormal scales would lose the bits that a row needs.
  most = np.float32(CODES[form.code].largest)
  scale = np.where(largest > 0, np.maximum(largest / most, np.finfo(np.float32).tiny), np.float32(1))
  return np.rint(groups / scale[..., None]).astype(np.int8).reshape(rows, -1)[:, :inner], scale


def _of_least_squares(block: Float[np.ndarray, "R I"], form: Form) -> Rounded:
  """The scales of the least squared error that the search finds, and the nearest numbers, from 0 to 15."""
  rows, inner = block.shape
  groups = _in_groups(block, form)
  most, least = groups.max(axis=2, keepdims=True), groups.min(axis=2, keepdims=True)
  largest = np.where(most >= -least, most, least)
  held = np.abs(largest) > np.finfo(np.float32).tiny
  # The largest magnitude becomes -1, and with a positive end the lowest number, of which there are more than above 0.
  unit = groups / np.where(held, -largest, 1)
  best, scale = np.zeros_like(largest), np.ones_like(largest)
  for end in ENDS:
    q = _clipped(unit * np.float32(end))
    product, square = (np.einsum("rgi,rgi->rg", q, other)[..., None] for other in (unit, q))
    explained = product * product / np.maximum(square, 1)
    better = held & (explained > best * _BETTER)
    best, scale = np.where(better, explained, best), np.where(better, product / np.maximum(square, 1), scale)
  scale = np.where(held, scale * -largest, 1).astype(jnp.bfloat16)
  numbers = _clipped(groups / scale.astype(np.float32)) + CODES[form.code].zero
  return numbers.astype(np.uint8).reshape(rows, -1)[:, :inner], scale[..., 0]


_ROUNDED: Mapping[str, tuple[Callable[[np.ndarray, Form], Rounded], Any]] = MappingProxyType(
  {"int8": (_to_the_largest, np.float32), "int4": (_of_least_squares, jnp.bfloat16)}
)


def _clipped(numbers: np.ndarray) -> np.ndarray:
  """The nearest whole numbers of four bits with a sign."""
  return np.clip(np.rint(numbers), -8, 7)


def _in_groups(block: Float[np.ndarray, "R I"], form: Form) -> Float[np.ndarray, "R G N"]:
  """The inputs of each scale, filled up with zeros."""
  rows, inner = block.shape
  groups = form.groups(inner)
  filled = np.zeros((rows, groups * (form.group or inner)), np.float32) if form.group else block
  filled[:, :inner] = block
  return filled.reshape(rows, groups, -1)
