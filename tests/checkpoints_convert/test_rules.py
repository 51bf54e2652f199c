"""Rules are views of one array: both directions agree, and each tensor is used exactly once."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from checkpoints_convert.errors import CheckpointError
from checkpoints_convert.rules import (
  Duplicate,
  Fold,
  Ignored,
  Interleave,
  Join,
  Merge,
  Rule,
  Stack,
  Transpose,
  carry,
  check,
  describe,
  names,
  only_rules,
  shape,
  source_shapes,
  views,
)
from checkpoints_convert.safetensors_files import SafetensorsReader
from lynx_jax.models.checkpoints import read_spec
from lynx_jax.models.families import tensor_rules
from lynx_jax.models.parameters import parameter_shapes
from tests.families.cases import CASES, MIXTRAL, Case, checkpoint


@st.composite
def plans(draw: st.DrawFn):
  """A shape, and how to cut it up: nested tuples that begin with stack, join, transpose or name."""

  def plan(shape, depth):
    kinds = ["name", "join", "transpose", "fold"] + ["stack"] * (len(shape) > 2 and shape[0] > 0)
    kind = draw(st.sampled_from(kinds)) if depth else "name"
    if kind == "stack":
      return kind, [plan(shape[1:], depth - 1) for _ in range(shape[0])]
    if kind == "join":
      axis = draw(st.integers(0, len(shape) - 1))
      cut = draw(st.integers(0, shape[axis]))
      sizes = (cut, shape[axis] - cut)
      parts = [plan((*shape[:axis], size, *shape[axis + 1 :]), depth - 1) for size in sizes]
      return kind, parts, axis, sizes
    if kind == "fold":
      count = draw(st.sampled_from([n for n in range(1, shape[0] + 1) if shape[0] % n == 0] or [1]))
      return kind, plan((count, shape[0] // count, *shape[1:]), depth - 1), count
    if kind == "transpose":
      return kind, plan((*shape[:-2], shape[-1], shape[-2]), depth - 1)
    return (kind,)

  whole = draw(st.tuples(*[st.integers(1, 4)] * 3))
  return whole, plan(whole, 2)


def layout_of(plan, counter=None):
  counter = itertools.count() if counter is None else counter
  match plan:
    case ("stack", parts):
      return Stack(tuple(layout_of(part, counter) for part in parts))
    case ("join", parts, axis, sizes):
      return Join(tuple(layout_of(part, counter) for part in parts), axis, sizes)
    case ("fold", part, count):
      return Fold(layout_of(part, counter), count)
    case ("transpose", part):
      return Transpose(layout_of(part, counter))
  return f"tensor_{next(counter)}"


@hypothesis.given(plans())
def test_the_parts_of_a_layout_fill_the_whole_once(drawn):
  whole, layout = drawn[0], layout_of(drawn[1])
  array = np.zeros(whole, np.int64)
  parts = {part.name: part.view for part in views(layout, array)}
  assert list(parts) == list(names(layout))
  for part in parts.values():
    part += 1
  assert (array == 1).all()
  assert shape(layout, {part.name: part.shape for part in views(layout, array)}) == whole


@pytest.mark.parametrize("turned", [False, True])
def test_interleaved_halves_are_put_one_after_the_other(turned):
  named = np.arange(24).reshape(2, 12)
  by_half = np.concatenate([named[:, 0::2], named[:, 1::2]], axis=1)
  by_group = np.concatenate([np.concatenate([x[:, 0::2], x[:, 1::2]], 1) for x in np.split(named, 3, axis=1)], axis=1)
  for group, expected in ((None, by_half), (4, by_group)):
    whole = np.zeros((12, 2) if turned else (2, 12), np.int64)
    layout = Interleave("x", axis=-1, group=group)
    (part,) = views(Transpose(layout) if turned else layout, whole)
    assert part.shape == named.shape
    part.fill(named)
    np.testing.assert_array_equal(whole.T if turned else whole, expected)
    back = np.zeros_like(named)
    part.copy_to(back)
    np.testing.assert_array_equal(back, named)


def test_merged_runs_become_an_axis_and_back():
  named, whole = np.arange(24).reshape(6, 4), np.zeros((2, 4, 3), np.int64)
  (part,) = views(Transpose(Merge("x", 2)), whole)
  assert part.shape == (6, 4)
  part.fill(named)
  np.testing.assert_array_equal(whole[1], named[3:].T)
  back = np.zeros_like(named)
  part.copy_to(back)
  np.testing.assert_array_equal(back, named)
  assert shape(Transpose(Merge("x", 2)), {"x": (6, 4)}) == (2, 4, 3)


@pytest.mark.parametrize("layout", [Merge("x", 4), Interleave("x", 1), Interleave("x", 0, group=4)])
def test_orders_that_do_not_fit_are_errors(layout):
  with pytest.raises(ValueError, match=r"cannot be laid out|does not fill"):
    list(views(layout, np.zeros((6, 3))))


@hypothesis.given(plans(), st.sampled_from(["float32", "bfloat16"]))
def test_a_rule_and_its_inverse_give_back_every_bit(drawn, dtype):
  whole, layout = drawn[0], layout_of(drawn[1])
  dtype = np.dtype(dtype)
  bits = np.random.default_rng(0).integers(0, 2**16, (*whole, dtype.itemsize // 2), dtype=np.uint16)
  original = bits.view(dtype).reshape(whole)
  rule = Rule("whole", layout)
  shapes = {"whole": whole}
  tensors = dict(carry(rule.inverse, rule.source_shapes(shapes), {"whole": original}.__getitem__, dtype))
  assert {name: array.shape for name, array in tensors.items()} == rule.source_shapes(shapes)
  ((name, back),) = carry(rule, shapes, tensors.__getitem__, dtype)
  assert name == "whole"
  assert back.tobytes() == original.tobytes()
  assert rule.inverse.inverse == rule


def test_joined_and_stacked_experts_lie_where_the_decoder_reads_them():
  gates = [np.full((2, 3), 10 + expert) for expert in range(2)]
  ups = [np.full((2, 3), 20 + expert) for expert in range(2)]
  tensors = {f"{expert}.gate": gates[expert] for expert in range(2)}
  tensors |= {f"{expert}.up": ups[expert] for expert in range(2)}
  rule = Rule("gate_up", Stack(tuple(Join((f"{expert}.gate", f"{expert}.up")) for expert in range(2))))
  ((_, found),) = carry(rule, {"gate_up": (2, 4, 3)}, tensors.__getitem__, np.dtype(np.float32))
  assert found[:, :, 0].tolist() == [[10, 10, 20, 20], [11, 11, 21, 21]]


def test_a_split_hands_out_parts_of_one_tensor():
  whole = np.arange(24, dtype=np.float32).reshape(6, 4)
  rule = Rule(Join(("query", "key", "value"), sizes=(4, 1, 1)), "qkv")
  shapes = {"query": (4, 4), "key": (1, 4), "value": (1, 4)}
  found = dict(carry(rule, shapes, {"qkv": whole}.__getitem__, np.dtype(np.float32)))
  assert rule.source_shapes(shapes) == {"qkv": (6, 4)}
  np.testing.assert_array_equal(found["key"], whole[4:5])


def test_a_rule_needs_a_plain_name_on_one_side():
  with pytest.raises(ValueError, match="plain name"):
    Rule(Stack(("a", "b")), Join(("c", "d")))


@pytest.mark.parametrize(
  ("layout", "message"),
  [
    (Stack(("a", "b", "c")), "Stack of 3 arrays"),
    (Join(("a", "b"), sizes=(1, 2)), r"sizes \(1, 2\)"),
    (Fold("a", 3), "Fold into 3 runs"),
  ],
)
def test_a_layout_that_does_not_fill_the_array_is_an_error(layout, message):
  with pytest.raises(ValueError, match=message):
    list(views(layout, np.zeros((4, 2))))


@pytest.mark.parametrize(
  ("table", "message"),
  [
    ((Rule("a", "x"), Rule("b", "x")), "tensor 'x' more than once"),
    ((Rule("a", "x"), Rule("a", "y"), Rule("b", "z")), "parameter 'a' more than once"),
    ((Rule("a", "x"),), r"never set \['b'\]"),
  ],
)
def test_a_table_that_is_not_one_to_one_is_an_error(table, message):
  with pytest.raises(ValueError, match=message):
    source_shapes(table, {"a": (1,), "b": (1,)})


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rules_use_every_tensor_of_the_files_once(case: Case):
  spec = read_spec(checkpoint(case))
  with SafetensorsReader(checkpoint(case)) as reader:
    found = dict(reader.shapes)
  table = tensor_rules(spec)
  assert source_shapes(table, parameter_shapes(spec)) == found
  used = [name for rule in only_rules(table) for name in names(rule.source)]
  assert sorted(used) == sorted(found)


@pytest.fixture
def fitting():
  """A table, the shapes of its parameters, and those of a checkpoint that fits."""
  spec = read_spec(checkpoint(MIXTRAL[0]))
  table, shapes = tensor_rules(spec), parameter_shapes(spec)
  return table, shapes, source_shapes(table, shapes)


def test_missing_tensors_are_counted_and_named(fitting):
  table, shapes, found = fitting
  gone = [name for name in found if ".experts.3." in name]
  with pytest.raises(CheckpointError, match="6 tensors missing: ") as raised:
    check(table, shapes, {name: size for name, size in found.items() if name not in gone}, "here")
  assert gone[0] in str(raised.value)
  assert str(raised.value).startswith("here: ")


def test_a_surplus_tensor_is_named(fitting):
  table, shapes, found = fitting
  with pytest.raises(CheckpointError, match=r"1 tensor that nothing uses: model\.extra"):
    check(table, shapes, found | {"model.extra": (3,)}, "here")


def test_a_misshapen_tensor_is_named_with_both_shapes(fitting):
  table, shapes, found = fitting
  with pytest.raises(CheckpointError, match=r"model.norm.weight \(expected \[64\], found \[65\]\)"):
    check(table, shapes, found | {"model.norm.weight": (65,)}, "here")


def test_rotary_frequencies_of_old_files_are_no_weights(fitting):
  table, shapes, found = fitting
  check(table, shapes, found | {"model.layers.1.self_attn.rotary_emb.inv_freq": (8,)}, "here")


def test_a_second_head_is_allowed_only_where_it_is_tied(fitting):
  table, shapes, found = fitting
  table = (*table, Duplicate("again", of="lm_head.weight"), Ignored("noise.*", "nothing"))
  check(table, shapes, found | {"again": (101, 64), "noise_1": ()}, "here")
  with pytest.raises(CheckpointError, match="nothing uses: a_noise"):
    check(table, shapes, found | {"a_noise": ()}, "here")


def test_the_spelling_is_told_by_the_names():
  spec = read_spec(checkpoint(MIXTRAL[0]))
  fused = tensor_rules(spec, {"model.layers.0.mlp.experts.gate_up_proj": (4, 96, 64)})
  assert Rule("layers.0.ffn.down", "model.layers.0.mlp.experts.down_proj") in fused
  assert tensor_rules(spec, {"model.norm.weight": (64,)}) == tensor_rules(spec)


def test_a_layout_is_described_in_a_line():
  assert describe(Transpose(Interleave("a", 2))) == "transpose of a, whose halves alternate along axis 2"
  assert describe(Merge("a", 4)) == "a cut into 4"
  layout = Stack((Join(("a", Transpose("b")), axis=1), Join(("c", "d"), axis=1)))
  assert describe(layout) == "stack of 2 such as join along axis 1 of (a, transpose of b)"
