"""Rules on quantised weights, judged by the same rules on each weight's plain numbers."""

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from checkpoints_convert.packed_rules import Piece, carry_packed, inputs_axes, leaves, like, packed_targets
from checkpoints_convert.rules import Fold, Interleave, Join, Merge, Rule, Stack, Transpose, carry, views
from pallas_kernels import Form, QuantizedWeight, dequantize
from pallas_kernels.weights.layouts import packed
from pallas_kernels.weights.widening import widened

FLOAT32 = np.dtype(np.float32)
INNER = 32
FORMS = (Form(code="int4", group=16), Form(code="e2m1", group=32), Form(code="e4m3"), Form(code="int8", group=16))


def random_weight(shape: tuple[int, ...], form: Form, seed: int, *, full: bool) -> QuantizedWeight:
  """Any bits, with zeros and gains of its own if it is `full`."""
  random = np.random.default_rng(seed)
  # Every byte is a number but e4m3's NaN, 0x7f and 0xff.
  bits = random.integers(0, 127 if form.code == "e4m3" else 1 << form.bits, shape, np.uint8)
  scales = random.lognormal(size=form.scales_shape(shape)).astype(np.float32)
  zeros = random.integers(0, 9, form.scales_shape(shape), np.uint8) if full else None
  gains = random.lognormal(size=(*shape[:-1], 1)).astype(np.float32) if full else None
  values = packed(bits.view(np.int8) if form.code == "int8" else bits, form)
  return QuantizedWeight(values=values, scales=scales, zeros=zeros, gains=gains, form=form, matrix=shape[-2:])  # type: ignore[arg-type]


@st.composite
def layouts(draw: Any, shape: tuple[int, ...], name: str = "x", depth: int = 0) -> Any:
  """A layout of an array of that shape, over named arrays of two axes or more."""
  first, rank = shape[0], len(shape)
  kinds = ["name", "interleave"]
  if depth < 3:
    kinds += ["join", "transpose", *(["fold"] if first % 2 == 0 else []), *(["stack"] if rank > 2 else [])]
  kinds += ["merge"] if rank > 2 else []
  match draw(st.sampled_from(kinds)):
    case "name":
      return name
    case "interleave":
      axis = draw(st.sampled_from([axis for axis in range(rank) if shape[axis] % 2 == 0] or [None]))
      return name if axis is None else Interleave(name, draw(st.sampled_from([axis, axis - rank])))
    case "merge":
      return Merge(name, first)
    case "join":
      axis = draw(st.integers(0, rank - 1))
      if shape[axis] < 2:
        return name
      cut = draw(st.integers(1, shape[axis] - 1))
      sizes = (cut, shape[axis] - cut)
      each = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
      parts = tuple(draw(layouts(part, f"{name}{n}", depth + 1)) for n, part in enumerate(each))
      return Join(parts, axis, sizes)
    case "transpose":
      return Transpose(draw(layouts((*shape[:-2], shape[-1], shape[-2]), name, depth + 1)))
    case "fold":
      return Fold(draw(layouts((2, first // 2, *shape[1:]), name, depth + 1)), 2)
    case _:
      return Stack(tuple(draw(layouts(shape[1:], f"{name}{n}", depth + 1)) for n in range(first)))


SHAPES = st.tuples(st.lists(st.sampled_from([1, 2, 3]), max_size=1), st.sampled_from([2, 4, 6])).map(
  lambda sizes: (*sizes[0], sizes[1], INNER)
)


def truly(layout: Any, shape: tuple[int, ...]) -> dict[str, int | None]:
  """Where each named array has the last axis of the whole, from an array that holds its entries' places on it."""
  whole = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape).copy()
  found: dict[str, int | None] = {}
  for part in views(layout, whole):
    named = part.whole()
    lies = [
      axis
      for axis in range(named.ndim)
      if named.shape[axis] == shape[-1]
      and (np.moveaxis(named, axis, -1) == np.arange(shape[-1], dtype=np.float32)).all()
    ]
    found[part.name] = lies[0] if lies else None
  return found


@hypothesis.given(st.data(), SHAPES, st.sampled_from(FORMS), st.booleans())
@hypothesis.settings(max_examples=100, deadline=None)
def test_a_rule_on_quantised_weights_is_the_rule_on_their_numbers(data, shape, form, full):
  layout = data.draw(layouts(shape))
  axes = truly(layout, shape)
  assert dict(inputs_axes(layout, len(shape) - 1, len(shape))) == axes
  rule, sizes = Rule("whole", layout), {"whole": shape}
  source_shapes = rule.source_shapes(sizes)
  pieces = {}
  for seed, (name, tensor) in enumerate(source_shapes.items()):
    # Inputs lie where the rule has them, if that is one of the last two axes.
    swapped = axes[name] == len(tensor) - 2
    matrices = (*tensor[:-2], tensor[-1], tensor[-2]) if swapped else tensor
    pieces[name] = Piece(random_weight(matrices, form, seed, full=full), swapped)
  abstract = {name: Piece(like(weight, weight.shape), swapped) for name, (weight, swapped) in pieces.items()}
  targets = {name: piece for name, piece in packed_targets(rule, sizes, abstract).items() if not piece.swapped}
  whole = all(axis is not None and axis >= len(source_shapes[name]) - 2 for name, axis in axes.items())
  assert targets.keys() == ({"whole"} if whole else set())
  if not whole:
    return
  ((_, found),) = carry_packed(rule, targets, pieces.__getitem__)
  assert not found.swapped
  assert {name: (leaf.shape, leaf.dtype) for name, leaf in leaves(found.weight).items()} == {
    name: (leaf.shape, leaf.dtype) for name, leaf in leaves(targets["whole"].weight).items()
  }
  numbers = {name: widened(weight, FLOAT32) for name, (weight, _) in pieces.items()}
  numbers = {name: array.swapaxes(-1, -2) if pieces[name].swapped else array for name, array in numbers.items()}
  ((_, expected),) = carry(rule, sizes, numbers.__getitem__, FLOAT32)
  np.testing.assert_array_equal(widened(found.weight, FLOAT32), expected)
  # And back: what files held is there again, bit for bit.
  back = packed_targets(rule.inverse, source_shapes, targets)
  assert {name: swapped for name, (_, swapped) in back.items()} == {
    name: piece.swapped for name, piece in pieces.items()
  }
  for name, piece in carry_packed(rule.inverse, back, {"whole": found}.__getitem__):
    for leaf, array in leaves(piece.weight).items():
      np.testing.assert_array_equal(array, getattr(pieces[name].weight, leaf), err_msg=f"{name}.{leaf}")


def test_one_of_several_parameters_is_carried_alone():
  rule = Rule(Join(("query", "key"), sizes=(2, 4)), "both")
  weight = random_weight((6, INNER), FORMS[0], 0, full=True)
  targets = packed_targets(rule, {"query": (2, INNER), "key": (4, INNER)}, {"both": Piece(like(weight, weight.shape))})
  assert targets.keys() == {"query", "key"}
  ((name, found),) = carry_packed(rule, {"key": targets["key"]}, lambda name: Piece(weight))
  assert name == "key"
  np.testing.assert_array_equal(found.weight.values, weight.values[2:])


def test_weights_that_are_quantised_otherwise_are_not_put_together():
  rule, shape = Rule("whole", Stack(("a", "b"))), (4, INNER)
  weight = random_weight(shape, FORMS[0], 0, full=False)
  for other in (random_weight(shape, FORMS[1], 0, full=False), random_weight(shape, FORMS[0], 0, full=True)):
    both = {"a": Piece(like(weight, shape)), "b": Piece(like(other, shape))}
    assert packed_targets(rule, {"whole": (2, *shape)}, both) == {}
  assert packed_targets(rule, {"whole": (2, *shape)}, {"a": Piece(like(weight, shape))}) == {}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("inner", [1, 16, 37])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.code)
def test_widened_weights_are_those_that_jax_dequantises(form, inner, full):
  weight = random_weight((2, 3, inner), form, inner, full=full)
  np.testing.assert_array_equal(widened(weight, FLOAT32), dequantize(weight))
