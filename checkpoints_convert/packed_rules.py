"""Rules carry quantised weights without dequantising them.

A rule only moves entries of an array, and mostly whole rows of inputs: it stacks, joins, cuts and reorders outputs. A
quantised weight is several arrays that have the same axes but the last, which is as long as each of them has it. So
the same rule lays out each of these arrays, provided that it leaves the axis of inputs whole and last.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from checkpoints_convert.rules import (
  Fold,
  Interleave,
  Join,
  Layout,
  Merge,
  Rule,
  Shapes,
  Stack,
  Transpose,
  names,
  views,
)
from pallas_kernels import QuantizedWeight, abstract_quantized
from pallas_kernels.cpu.huge_pages import aligned_empty

LEAVES = ("values", "scales", "zeros", "gains")
"""The arrays of a quantised weight, of which the last two may be missing."""

Held: TypeAlias = Mapping[str, QuantizedWeight]
"""Quantised weights by name, as shapes and dtypes, in the layout `rows`."""


class Piece(NamedTuple):
  """A quantised weight [..., out, in] inside a tensor; `swapped` where the tensor has inputs before outputs."""

  weight: QuantizedWeight
  swapped: bool = False


Pieces: TypeAlias = Mapping[str, Piece]


def leaves(weight: QuantizedWeight) -> dict[str, Any]:
  """The weight's arrays that are there, by name."""
  return {name: leaf for name in LEAVES if (leaf := getattr(weight, name)) is not None}


def inputs_axes(layout: Layout, axis: int, rank: int) -> Iterator[tuple[str, int | None]]:
  """Each name of the layout, with where its array has the axis `axis` of the whole array, which has `rank` axes.

  None where that axis is cut, reordered or merged with another.
  """
  match layout:
    case str():
      yield layout, axis
    case Stack(parts):
      for part in parts:
        yield from inputs_axes(part, axis - 1, rank - 1) if axis else _none(part)
    case Join(parts, along):
      for part in parts:
        yield from inputs_axes(part, axis, rank) if along % rank != axis else _none(part)
    case Fold(part):
      yield from inputs_axes(part, axis + 1, rank + 1) if axis else _none(part)
    case Transpose(part):
      yield from inputs_axes(part, {rank - 1: rank - 2, rank - 2: rank - 1}.get(axis, axis), rank)
    case Merge(part):
      yield part, axis - 1 if axis > 1 else None
    case Interleave(part, along):
      yield part, axis if along % rank != axis else None


def _none(layout: Layout) -> Iterator[tuple[str, None]]:
  return ((name, None) for name in names(layout))


def packed_targets(rule: Rule, shapes: Shapes, sources: Pieces) -> dict[str, Piece]:
  """The rule's targets that can be carried quantised, given the sources that are, as shapes and dtypes.

  All sources of a target must be quantised alike: in one form, with arrays of the same dtypes.
  """
  pieces = [sources.get(name) for name in names(rule.source)]
  first = pieces[0]
  if first is None or None in pieces:
    return {}
  kind = _kind(first.weight)
  if any(piece is not first and _kind(piece.weight) != kind for piece in pieces if piece is not None):
    return {}
  if not isinstance(rule.target, str):
    rank = len(first.weight.shape)
    axes = inputs_axes(rule.target, _axis(first, rank), rank)
    ranks = {name: len(shapes[name]) for name in names(rule.target)}
    swapped = {name: _swapped(axis, ranks[name]) for name, axis in axes}
  else:
    rank = len(shapes[rule.target])
    ways = {
      last
      for last in (rank - 1, rank - 2)
      if all(
        axis == _axis(sources[name], len(sources[name].weight.shape))
        for name, axis in inputs_axes(rule.source, last, rank)
      )
    }
    swapped = {rule.target: _swapped(next(iter(ways), None), rank)}
  return {
    name: Piece(like(first.weight, _matrices(shapes[name], swapped=way)), swapped=way)
    for name, way in swapped.items()
    if way is not None
  }


def like(weight: QuantizedWeight, whole: tuple[int, ...]) -> QuantizedWeight:
  """Shapes and dtypes of a weight of shape `whole` that is quantised as `weight` is."""
  zeros = None if weight.zeros is None else weight.zeros.dtype
  gains = weight.gains is not None
  return abstract_quantized(whole, weight.form, weight.numbers, weight.scales.dtype, zeros=zeros, gains=gains)


def _kind(weight: QuantizedWeight) -> tuple[Any, ...]:
  return weight.form, {name: np.dtype(leaf.dtype) for name, leaf in leaves(weight).items()}


def _axis(piece: Piece, rank: int) -> int:
  """The axis of inputs in the piece's tensor."""
  return rank - 2 if piece.swapped else rank - 1


def _swapped(axis: int | None, rank: int) -> bool | None:
  """Whether inputs come before outputs, given their axis; None where they are neither of the last two axes."""
  return None if axis is None or rank < 2 or axis < rank - 2 else axis == rank - 2


def _matrices(whole: tuple[int, ...], *, swapped: bool) -> tuple[int, ...]:
  *lead, rows, columns = whole
  return (*lead, columns, rows) if swapped else whole


def carry_packed(
  rule: Rule, targets: Pieces, read: Callable[[str], Piece], wanted: Collection[str] | None = None
) -> Iterator[tuple[str, Piece]]:
  """Each of `targets`, the answer of `packed_targets`, with its arrays, filled from `read(name)` tensor by tensor.

  As `checkpoints_convert.rules.carry` does for plain arrays; holds a target and a tensor at a time.
  """
  chosen = [name for name in targets if wanted is None or name in wanted]
  if not chosen:
    return
  if isinstance(rule.target, str):
    held, swapped = targets[rule.target]
    arrays = {leaf: aligned_empty(one.shape, one.dtype) for leaf, one in leaves(held).items()}
    laid = {leaf: views(rule.source, _turned(array, swapped=swapped)) for leaf, array in arrays.items()}
    for name, *parts in zip(names(rule.source), *laid.values(), strict=True):
      piece = read(name)
      found = leaves(piece.weight)
      for leaf, part in zip(laid, parts, strict=True):
        part.fill(_turned(found[leaf], swapped=piece.swapped))
      del piece, found
    yield rule.target, Piece(dataclasses.replace(held, **arrays), swapped)
    return
  assert isinstance(rule.source, str)
  piece = read(rule.source)
  laid = {
    leaf: views(rule.target, _turned(array, swapped=piece.swapped)) for leaf, array in leaves(piece.weight).items()
  }
  for name, *parts in zip(names(rule.target), *laid.values(), strict=True):
    if name in chosen:
      held, swapped = targets[name]
      arrays = {}
      for leaf, part in zip(laid, parts, strict=True):
        array = aligned_empty(leaves(held)[leaf].shape, leaves(held)[leaf].dtype)
        _turned(array, swapped=swapped)[...] = part.whole()
        arrays[leaf] = array
      yield name, Piece(dataclasses.replace(held, **arrays), swapped)


def _turned(array: np.ndarray, *, swapped: bool) -> np.ndarray:
  """The array as it lies in its tensor."""
  return array.swapaxes(-1, -2) if swapped else array


def nbytes(weight: QuantizedWeight) -> int:
  """Bytes of the weight's arrays, which may be shapes and dtypes."""
  return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves(weight).values())
