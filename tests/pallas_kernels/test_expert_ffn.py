"""One suite for every implementation of `expert_ffn`; a new one joins by its name in `IMPLEMENTATIONS`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import INT4, INT8, Form, bits_of, dequantize, expert_ffn, quantize
from pallas_kernels.activations import ClampedSwiGLU
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.expert_ffn.loop import expert_ffn_loop
from pallas_kernels.gates.forms import HELD, Held
from tests.pallas_kernels.hlo import arrays_made
from tests.pallas_kernels.weights.holding import held

IMPLEMENTATIONS = ("pallas", "cpu", "loop", "reference")
# Rows, experts, experts a row, model width, expert width: odd sizes, E not a power of two, T across tile sizes.
SHAPES = ((1, 4, 2, 8, 16), (7, 5, 2, 33, 17), (16, 6, 3, 24, 40), (70, 3, 2, 16, 8))


def as_bits(weights):
  weights = np.asarray(weights)
  return jax.tree.map(jnp.asarray, bits_of(weights) if weights.dtype == jnp.bfloat16 else weights)


run = jax.jit(expert_ffn, static_argnames=("implementation", "activation"))
CLAMPED = ClampedSwiGLU(alpha=1.702, limit=0.5)


def weights_of(experts, width, expert_width, dtype=np.float32, seed=0):
  random = np.random.default_rng(seed)
  gate_up = random.normal(size=(experts, 2 * expert_width, width)) / np.sqrt(width)
  down = random.normal(size=(experts, width, expert_width)) / np.sqrt(expert_width)
  return jnp.asarray(gate_up, dtype), jnp.asarray(down, dtype)


INTERLEAVED = Form(code="int4", group=32, layout="interleaved")


def held_in(weights, form: Form | Held = INT8):
  if isinstance(form, Held):
    return tuple(held(stack, form) for stack in weights)
  return tuple(jax.tree.map(jnp.asarray, quantize(np.asarray(stack), form)) for stack in weights)


def taken(x, form):
  """Rows as kernels for GPUs take them beside weights in tiles, in bfloat16; others as they are."""
  return jnp.asarray(x, jnp.bfloat16) if isinstance(form, Held) else x


def biases_of(experts, width, expert_width, dtype=np.float32):
  random = np.random.default_rng(7)
  return {
    "gate_up_bias": jnp.asarray(random.normal(size=(experts, 2 * expert_width)), dtype),
    "down_bias": jnp.asarray(random.normal(size=(experts, width)), dtype),
  }


def by_numpy(x, ids, weights, gate_up, down, valid, gate_up_bias=0.0, down_bias=0.0, activation=None):
  """The definition, one assignment at a time, in float64; a bias of 0 is none."""
  x, weights, gate_up, down = (np.asarray(a, np.float64) for a in (x, weights, gate_up, down))
  gate_up_bias = np.broadcast_to(np.asarray(gate_up_bias, np.float64), gate_up.shape[:2])
  down_bias = np.broadcast_to(np.asarray(down_bias, np.float64), down.shape[:2])
  y = np.zeros_like(x)
  for row in np.flatnonzero(valid):
    for expert, weight in zip(np.asarray(ids)[row], weights[row], strict=True):
      gate, up = np.split(gate_up[expert] @ x[row] + gate_up_bias[expert], 2)
      if activation == CLAMPED:
        gate, up = np.minimum(gate, CLAMPED.limit), np.clip(up, -CLAMPED.limit, CLAMPED.limit)
        hidden = gate / (1 + np.exp(-CLAMPED.alpha * gate)) * (up + 1)
      else:
        hidden = gate / (1 + np.exp(-gate)) * up
      y[row] += weight * (down[expert] @ hidden + down_bias[expert])
  return y


@st.composite
def loads(draw):
  """Inputs of one of `SHAPES`: random, piled on few experts, or with rows that do not count."""
  rows, experts, top_k, width, expert_width = draw(st.sampled_from(SHAPES))
  random = np.random.default_rng(draw(st.integers(0, 2**16)))
  pool = draw(st.integers(top_k, experts))
  ids = np.stack([random.permutation(pool)[:top_k] for _ in range(rows)]).astype(np.int32)
  valid = random.random(rows) < draw(st.sampled_from([0.0, 0.3, 1.0]))
  x = random.normal(size=(rows, width)).astype(np.float32)
  x[~valid] = draw(st.sampled_from([0.0, np.nan, np.inf]))
  weights = random.random((rows, top_k)).astype(np.float32)
  more = {}
  if rows in (7, 16) and draw(st.booleans()):
    more = biases_of(experts, width, expert_width) | {"activation": CLAMPED}
  return x, ids, weights, valid, weights_of(experts, width, expert_width), more


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
class TestExpertFFN:
  @given(load=loads())
  @settings(max_examples=14)
  def test_equals_the_definition(self, implementation, load):
    x, ids, weights, valid, experts, more = load
    y = run(x, ids, weights, *experts, valid=valid, **more, implementation=implementation)
    # float32 sums of up to 40 terms of order 1.
    np.testing.assert_allclose(y, by_numpy(x, ids, weights, *experts, valid=valid, **more), rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(y[~valid], 0)

  @pytest.mark.parametrize("shape", SHAPES)
  def test_bfloat16_stays_within_its_rounding(self, implementation, shape):
    rows, experts, top_k, width, expert_width = shape
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(rows, width)), jnp.bfloat16)
    ids = np.stack([random.permutation(experts)[:top_k] for _ in range(rows)]).astype(np.int32)
    weights = np.full((rows, top_k), 1 / top_k, np.float32)
    narrow = weights_of(experts, width, expert_width, jnp.bfloat16)
    expected = by_numpy(x, ids, weights, *narrow, np.ones(rows, bool))
    y = run(x, ids, weights, *narrow, implementation=implementation)
    assert y.dtype == jnp.bfloat16
    # Two roundings to 8 bits, of the hidden values and of the result.
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=2**-7 * np.abs(expected).max())
    stored = run(x, ids, weights, *map(as_bits, narrow), implementation=implementation)
    np.testing.assert_array_equal(y, stored)

  def test_experts_that_nobody_chose_may_hold_anything(self, implementation):
    x, ids = np.ones((5, 8), np.float32), np.full((5, 1), 2, np.int32)
    gate_up, down = weights_of(6, 8, 16)
    unused = jnp.arange(6)[:, None, None] != 2
    poisoned = (jnp.where(unused, jnp.nan, gate_up), jnp.where(unused, jnp.inf, down))
    clean = run(x, ids, np.ones((5, 1), np.float32), gate_up, down, implementation=implementation)
    y = run(x, ids, np.ones((5, 1), np.float32), *poisoned, implementation=implementation)
    np.testing.assert_array_equal(y, clean)

  def test_a_row_is_the_same_whoever_shares_the_batch(self, implementation):
    random = np.random.default_rng(3)
    experts = weights_of(4, 24, 40)
    x = random.normal(size=(16, 24)).astype(np.float32)
    ids = np.stack([random.permutation(4)[:2] for _ in range(16)]).astype(np.int32)
    weights = random.random((16, 2)).astype(np.float32)
    together = run(x, ids, weights, *experts, implementation=implementation)
    others = np.roll(np.arange(16), 5)
    moved = run(x[others], ids[others], weights[others], *experts, implementation=implementation)
    np.testing.assert_allclose(moved, np.asarray(together)[others], rtol=1e-6, atol=1e-6)
    for row in range(3):
      only = np.arange(16) == row
      alone = run(x, ids, weights, *experts, valid=only, implementation=implementation)
      np.testing.assert_allclose(alone[row], together[row], rtol=1e-6, atol=1e-6)
    again = run(x, ids, weights, *experts, implementation=implementation)
    np.testing.assert_array_equal(again, together)

  def test_gradients_are_those_of_the_definition(self, implementation):
    random = np.random.default_rng(4)
    x = jnp.asarray(random.normal(size=(6, 8)), jnp.float32)
    ids = jnp.asarray(np.stack([random.permutation(4)[:2] for _ in range(6)]), jnp.int32)
    weights = jnp.asarray(random.random((6, 2)), jnp.float32)
    valid = jnp.arange(6) != 3
    experts = weights_of(4, 8, 12)

    @jax.jit
    def loss(x, weights, gate_up, down, *biases):
      more: dict[str, Any] = dict(zip(("gate_up_bias", "down_bias"), biases, strict=True))
      options = {"activation": CLAMPED, "implementation": implementation}
      y = expert_ffn(x, ids, weights, gate_up, down, valid=valid, **more, **options)
      return jnp.sum(jnp.sin(y))

    def loss64(arrays):
      x, weights, gate_up, down, *biases = arrays
      return np.sin(by_numpy(x, ids, weights, gate_up, down, valid, *biases, activation=CLAMPED)).sum()

    inputs = (x, weights, *experts, *biases_of(4, 8, 12).values())
    gradients = jax.grad(loss, argnums=(0, 1, 2, 3, 4, 5))(*inputs)
    for place, gradient in enumerate(gradients):
      direction = random.normal(size=gradient.shape)
      ahead, behind = ([np.asarray(a, np.float64) for a in inputs] for _ in range(2))
      ahead[place] = ahead[place] + 1e-5 * direction
      behind[place] = behind[place] - 1e-5 * direction
      slope = (loss64(ahead) - loss64(behind)) / 2e-5
      np.testing.assert_allclose((np.asarray(gradient, np.float64) * direction).sum(), slope, rtol=1e-3, atol=1e-4)

  def test_traces_once_whatever_rows_and_experts_are_in_use(self, implementation):
    traces = []

    @jax.jit
    def counted(x, ids, weights, valid, gate_up, down):
      traces.append(1)
      return expert_ffn(x, ids, weights, gate_up, down, valid=valid, implementation=implementation)

    experts = weights_of(4, 8, 12)
    for count in range(4):
      ids = np.full((3, 1), count, np.int32)
      counted(np.ones((3, 8), np.float32), ids, np.ones((3, 1), np.float32), np.arange(3) < count, *experts)
    assert len(traces) == 1


# What the implementations add to the rounding of quantised weights, as a share of the largest result: nothing but
# float32 sums where rows stay float32; with rows of bfloat16 the rounding of hidden values and of the result; natively,
# 16 bits of each row and of each row of hidden values, or 8 bits of each 32 values.
QUANTISED_ERRORS = {
  ("cpu", INT8): 2**-12,
  ("cpu", INTERLEAVED): 2**-5,
  ("loop", INT8): 2**-18,
  ("reference", INT8): 2**-18,
  ("loop", INT4): 2**-18,
  ("reference", INTERLEAVED): 2**-18,
  ("pallas", HELD["MXFP4"]): 2**-7,
}
NAMES = [f"{name}-{form.form.code if isinstance(form, Held) else form}" for name, form in QUANTISED_ERRORS]


@pytest.mark.parametrize(("implementation", "form"), QUANTISED_ERRORS, ids=NAMES)
class TestQuantisedExperts:
  @given(load=loads())
  @settings(max_examples=6)
  def test_equal_the_definition_on_the_weights_that_they_stand_for(self, implementation, form, load):
    x, ids, weights, valid, experts, more = load
    x, experts = taken(x, form), held_in(experts, form)
    y = run(x, ids, weights, *experts, valid=valid, **more, implementation=implementation)
    expected = by_numpy(x, ids, weights, *map(dequantize, experts), valid=valid, **more)
    np.testing.assert_allclose(
      y, expected, atol=QUANTISED_ERRORS[implementation, form] * max(1.0, np.abs(expected).max())
    )
    np.testing.assert_array_equal(y[~valid], 0)

  @pytest.mark.parametrize("shape", SHAPES)
  def test_bfloat16_rows_lose_what_rounding_and_the_implementation_lose(self, implementation, form, shape):
    rows, experts, top_k, width, expert_width = shape
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(rows, width)), jnp.bfloat16)
    ids = np.stack([random.permutation(experts)[:top_k] for _ in range(rows)]).astype(np.int32)
    weights = np.full((rows, top_k), 1 / top_k, np.float32)
    narrow = held_in(weights_of(experts, width, expert_width), form)
    y = run(x, ids, weights, *narrow, implementation=implementation)
    expected = by_numpy(x, ids, weights, *map(dequantize, narrow), valid=np.ones(rows, bool))
    assert y.dtype == jnp.bfloat16
    tolerance = max(2**-7, QUANTISED_ERRORS[implementation, form])
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=tolerance * np.abs(expected).max())

  def test_experts_that_nobody_chose_may_hold_anything(self, implementation, form):
    x, ids = taken(np.ones((5, 8), np.float32), form), np.full((5, 1), 2, np.int32)
    share = np.ones((5, 1), np.float32)
    experts = held_in(weights_of(6, 8, 16), form)
    unused = (jnp.arange(6) != 2).reshape(6, *(1,) * (experts[0].scales.ndim - 1))
    poisoned = [
      dataclasses.replace(
        stack, scales=jnp.where(unused, jnp.nan, stack.scales.astype(jnp.float32)).astype(stack.scales.dtype)
      )
      for stack in experts
    ]
    clean = run(x, ids, share, *experts, implementation=implementation)
    np.testing.assert_array_equal(run(x, ids, share, *poisoned, implementation=implementation), clean)

  def test_outputs_of_zeros_give_zeros(self, implementation, form):
    gate_up, down = weights_of(4, 24, 40)
    experts = held_in((gate_up, down.at[:, 5].set(0)), form)
    ids = np.array([[0, 3], [1, 2]], np.int32)
    x = taken(np.ones((2, 24), np.float32), form)
    y = run(x, ids, np.ones((2, 2), np.float32), *experts, implementation=implementation)
    assert np.isfinite(y).all()
    np.testing.assert_array_equal(np.asarray(y)[:, 5], 0)
    assert np.all(np.asarray(y)[:, :5] != 0)

  def test_gradients_of_rows_are_those_of_the_weights_that_they_stand_for(self, implementation, form):
    random = np.random.default_rng(4)
    x = taken(jnp.asarray(random.normal(size=(6, 8)), jnp.float32), form)
    ids = jnp.asarray(np.stack([random.permutation(4)[:2] for _ in range(6)]), jnp.int32)
    experts = held_in(weights_of(4, 8, 12), form)

    def slopes(experts, implementation):
      def loss(x):
        return jnp.sum(expert_ffn(x, ids, jnp.full((6, 2), 0.5), *experts, implementation=implementation))

      return jax.grad(loss)(x)

    # In bfloat16 the reference's own products, with weights as it rounds them.
    wide = experts if isinstance(form, Held) else tuple(map(dequantize, experts))
    np.testing.assert_allclose(slopes(experts, implementation), slopes(wide, "reference"), rtol=1e-4, atol=1e-5)


# Inputs of several steps, the last of them not full, for every code and for tiles of few rows and of many.
@pytest.mark.parametrize(
  ("name", "rows"), [("int8", 9), ("int4, groups of 128, zeros", 70), ("MXFP4", 70), ("fp8, blocks of 128", 9)]
)
def test_experts_in_tiles_sum_over_all_steps(name, rows):
  experts, top_k, width, expert_width = 2, 2, 300, 144
  random = np.random.default_rng(6)
  x = jnp.asarray(random.normal(size=(rows, width)), jnp.bfloat16)
  ids = np.stack([random.permutation(experts) for _ in range(rows)]).astype(np.int32)
  weights = random.random((rows, top_k)).astype(np.float32)
  narrow = held_in(weights_of(experts, width, expert_width), HELD[name])
  more = biases_of(experts, width, expert_width, jnp.bfloat16) | {"activation": CLAMPED}
  y = run(x, ids, weights, *narrow, **more, implementation="pallas")
  expected = by_numpy(x, ids, weights, *map(dequantize, narrow), valid=np.ones(rows, bool), **more)
  np.testing.assert_allclose(np.asarray(y, np.float32), expected, atol=2**-7 * np.abs(expected).max())


def test_forms_that_gpu_kernels_do_not_read_are_named_and_fall_back():
  x, read = jnp.ones((3, 64), jnp.bfloat16), held_in(weights_of(4, 64, 32), HELD["int4, groups of 32"])
  rows = (x, jnp.zeros((3, 1), jnp.int32), jnp.ones((3, 1)))
  halves = held_in(weights_of(4, 64, 32), Form(code="int8", group=16, layout="tiles"))
  cases = (
    ((*rows, *held_in(weights_of(4, 64, 32))), r"int8 weights in the layout 'tiles' \(`relayout`\), not 'rows'"),
    ((x.astype(jnp.float32), *rows[1:], *read), "int4 weights beside rows of bfloat16, not float32"),
    ((*rows, *halves), "groups of a power of two of at least 32 inputs, not 16"),
    ((*rows, read[0], dataclasses.replace(read[1], zeros=read[1].scales)), "whole zeros of int4 weights, not bfloat16"),
    ((*rows, dataclasses.replace(read[0], scales=jnp.asarray(read[0].scales, jnp.int8)), read[1]), "not int8"),
  )
  for arguments, message in cases:
    with pytest.raises(NotImplementedError, match=message):
      run(*arguments, implementation="pallas")
    lowered = jax.jit(expert_ffn).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.while" in lowered
    assert "custom_call" not in lowered


def test_int8_beside_floating_weights_is_an_error_natively_and_right_elsewhere():
  gate_up, down = weights_of(4, 16, 32)
  (narrow,) = held_in((gate_up,))
  arguments = (jnp.ones((3, 16)), jnp.zeros((3, 1), jnp.int32), jnp.ones((3, 1)))
  with pytest.raises(NotImplementedError, match="weights of int8 and of float32: one form for both"):
    expert_ffn(*arguments, narrow, down, implementation="cpu")
  expected = expert_ffn(*arguments, dequantize(narrow), down, implementation="reference")
  np.testing.assert_allclose(expert_ffn(*arguments, narrow, down), expected, rtol=1e-5, atol=1e-6)


def looped(*arrays):
  return expert_ffn_loop(ExpertArrays(*arrays), options=ExpertOptions())


def in_bits(weights):
  return tuple(map(as_bits, weights))


def compiled_in_a_loop(layer, held=in_bits):
  """The decode loop's shape: a while loop whose steps run the layer on weights from outside."""
  rows, top_k, experts, width, expert_width = 8, 2, 16, 64, 96
  weights = held(weights_of(experts, width, expert_width, jnp.bfloat16))

  @jax.jit
  def loop(x, ids, share, gate_up, down):
    valid = jnp.ones((rows,), bool)
    return jax.lax.fori_loop(0, x.shape[1], lambda _, x: layer(x, ids, share, gate_up, down, valid), x)

  x = jnp.ones((rows, width), jnp.bfloat16)
  ids = jnp.zeros((rows, top_k), jnp.int32).at[:, 1].set(1)
  compiled = loop.lower(x, ids, jnp.full((rows, top_k), 0.5), *weights).compile()
  return arrays_made(compiled, experts * width * expert_width)


def in_int4(weights):
  return held_in(weights, INT4)


def interleaved(weights):
  return held_in(weights, INTERLEAVED)


@pytest.mark.parametrize("held", [in_bits, held_in, in_int4, interleaved])
def test_no_array_of_the_weights_size_is_made_in_a_decode_loop(held):
  assert compiled_in_a_loop(looped, held) == []


def test_the_check_sees_weights_that_are_widened():
  def widening(x, ids, share, gate_up, down, valid):
    wide = [dequantize(weights) for weights in (gate_up, down)]
    return looped(x.astype(jnp.float32), ids, share, *wide, valid).astype(x.dtype)

  assert any("f32[16," in line for line in compiled_in_a_loop(widening))


def test_the_check_sees_int8_weights_that_are_widened():
  def widening(x, ids, share, gate_up, down, valid):
    return looped(x, ids, share, *(dequantize(held).astype(x.dtype) for held in (gate_up, down)), valid)

  assert any("[16," in line for line in compiled_in_a_loop(widening, held_in))


def test_a_bound_that_clamps_everything_is_an_error():
  with pytest.raises(ValueError, match=r"ClampedSwiGLU\.limit is 0: expected a positive bound"):
    ClampedSwiGLU(alpha=1.0, limit=0)


def test_shapes_that_do_not_fit_and_unknown_implementations_are_named():
  gate_up, down = weights_of(4, 8, 12)
  inputs = (jnp.ones((3, 8)), jnp.zeros((3, 1), jnp.int32), jnp.ones((3, 1)))
  with pytest.raises(ValueError, match=r"gate_up \(4, 23, 8\), down .* do not fit: expected \[E, 2F, D\]"):
    expert_ffn(*inputs, gate_up[:, 1:], down)
  with pytest.raises(ValueError, match="no implementation 'pallsa': choose one of 'pallas', 'cpu', 'loop', 'ref"):
    expert_ffn(*inputs, gate_up, down, implementation="pallsa")
