"""Choosing an implementation: the best for the platform that a program is lowered for, those named, or the reasons."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels import quantize
from pallas_kernels.dispatch import Implementation, Op, traced_anew


def short_only(x, *, power):
  return None if x.size < 4 else f"takes fewer than 4 values, not {x.size}"


FAST = Implementation("fast", lambda x, *, power: jnp.sin(x) ** power, "sine", ("cuda",), short_only)
SLOW = Implementation("slow", lambda x, *, power: jnp.cos(x) ** power, "cosine")
OP = Op("op", (FAST, SLOW))
# An implementation that runs on CPUs only, even if it is named; and one that takes nothing.
BOUND = Implementation("bound", lambda x, *, power: jnp.tan(x) ** power, "tangent", ("cpu",), bound=True)
NONE = Implementation("none", lambda x, *, power: x, "nothing", objection=lambda x, *, power: "it takes nothing")
CHOOSY = Op("op", (FAST, BOUND, NONE, SLOW))
SHORT, LONG = jnp.arange(3.0), jnp.arange(8.0)


def lowered_for(platform, x, op=OP, implementation=None):
  run = jax.jit(lambda x: op(implementation, x, power=2))
  text = run.trace(x).lower(lowering_platforms=(platform,)).as_text()
  return {name for name in ("sine", "cosine", "tan") if f"stablehlo.{name} " in text}


def test_the_platform_that_a_program_is_lowered_for_decides():
  assert lowered_for("cuda", SHORT) == {"sine"}
  assert lowered_for("cpu", SHORT) == {"cosine"}


def test_an_implementation_that_objects_is_passed_over():
  assert lowered_for("cuda", LONG) == {"cosine"}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what a CPU runs")
def test_a_call_outside_jit_runs_the_best_for_this_machine():
  assert jnp.allclose(OP(None, SHORT, power=2), jnp.cos(SHORT) ** 2)


def test_a_named_one_runs_or_says_why_not():
  assert jnp.allclose(OP("fast", SHORT, power=1), jnp.sin(SHORT))
  with pytest.raises(NotImplementedError, match="'fast' cannot run: takes fewer than 4 values, not 8"):
    OP("fast", LONG, power=1)
  with pytest.raises(ValueError, match="op has no implementation 'quick': choose one of 'fast', 'slow'"):
    OP("quick", LONG, power=1)
  with pytest.raises(ValueError, match="implementation is an empty list"):
    OP((), LONG, power=1)


def test_of_several_named_the_first_that_can_run_is_taken():
  assert lowered_for("cpu", SHORT, CHOOSY, ("none", "fast", "slow")) == {"sine"}
  assert lowered_for("cpu", LONG, CHOOSY, ("fast", "slow")) == {"cosine"}
  # Which of two it is may depend on the platform.
  assert lowered_for("cpu", LONG, CHOOSY, ("bound", "slow")) == {"tan"}
  assert lowered_for("cuda", LONG, CHOOSY, ("bound", "slow")) == {"cosine"}


def test_where_nothing_can_run_every_reason_is_given():
  reasons = "'fast' cannot run: takes fewer than 4 values, not 8; implementation 'none' cannot run: it takes nothing"
  with pytest.raises(NotImplementedError, match=reasons):
    CHOOSY(("fast", "none"), LONG, power=1)
  with pytest.raises(NotImplementedError, match=reasons):
    Op("op", (FAST, NONE))(None, LONG, power=1)


def test_one_that_is_bound_to_a_platform_says_so_on_another():
  run = jax.jit(lambda x: CHOOSY(("none", "bound"), x, power=2))
  assert jnp.allclose(run(SHORT), jnp.tan(SHORT) ** 2)
  assert jnp.allclose(jax.vmap(run)(SHORT[None]), jnp.tan(SHORT[None]) ** 2)
  with pytest.raises(
    NotImplementedError, match=r"'none' cannot run: it takes nothing; .*'bound' .* it runs on CPUs only"
  ):
    run.trace(SHORT).lower(lowering_platforms=("cuda",))


def test_native_code_that_is_named_for_a_gpu_is_refused_in_our_words():
  x, scale = jnp.ones((2, 8)), jnp.ones(8)
  run = jax.jit(lambda x, scale: pallas_kernels.rms_norm(x, scale, 1e-6, implementation="cpu"))
  with pytest.raises(NotImplementedError, match="rms_norm: implementation 'cpu' cannot run: it runs on CPUs only"):
    run.trace(x, scale).lower(lowering_platforms=("cuda",))


@pytest.mark.parametrize("implementation", [None, "fast", ("fast", "slow")])
def test_calls_that_are_alike_are_traced_once(implementation):
  traced = []

  def counted(x, *, power):
    traced.append(power)
    return jnp.sin(x) ** power

  op = Op("op", (Implementation("fast", counted, "sine"), SLOW))
  jax.make_jaxpr(lambda x: [op(implementation, op(implementation, x, power=2), power=2) for _ in range(3)])(SHORT)
  assert traced == [2]
  with traced_anew():
    jax.make_jaxpr(lambda x: op(implementation, x, power=2))(SHORT)
  assert len(traced) > 1


def test_a_named_one_has_the_derivatives_of_the_reference():
  slope = jax.grad(lambda x: OP("fast", x, power=2).sum())(SHORT)
  assert jnp.allclose(slope, jax.grad(lambda x: (jnp.cos(x) ** 2).sum())(SHORT))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what a CPU runs")
def test_explain_accounts_for_every_implementation():
  assert OP.explain() == ["op  fast: runs on NVIDIA GPUs; sine", "op  slow: runs on CPUs (here); cosine"]
  text = pallas_kernels.explain()
  assert "expert_ffn  cpu: runs on CPUs" in text
  assert "expert_ffn  reference: can be asked for" in text


def test_weights_of_a_kind_that_it_does_not_list_are_refused():
  weight = quantize(np.ones((2, 3), np.float32))
  plain = Implementation("plain", lambda weights: weights, "plain arrays only", takes=())
  int8 = Implementation("int8", lambda weights: weights, "int8 too", takes=("int8",))
  anything = Implementation("any", lambda weights: weights, "every kind")
  op = Op("op", (plain, int8, anything))
  assert op("int8", {"a": weight}) is not None
  assert op("any", weight) is not None
  assert op("plain", jnp.ones(2)) is not None
  with pytest.raises(NotImplementedError, match="'plain' cannot run: it takes no weights held as int8: it takes"):
    op("plain", {"a": (weight, jnp.ones(2))})
