"""Choosing an implementation: the best for the platform that a program is lowered for, a named one or a reason."""

import jax
import jax.numpy as jnp
import pytest

import pallas_kernels
from pallas_kernels.dispatch import Implementation, Op


def short_only(x, *, power):
  return None if x.size < 4 else f"takes fewer than 4 values, not {x.size}"


FAST = Implementation("fast", lambda x, *, power: jnp.sin(x) ** power, "sine", ("cuda",), short_only)
SLOW = Implementation("slow", lambda x, *, power: jnp.cos(x) ** power, "cosine")
OP = Op("op", (FAST, SLOW))
SHORT, LONG = jnp.arange(3.0), jnp.arange(8.0)


def lowered_for(platform, x):
  run = jax.jit(lambda x: OP(None, x, power=2))
  text = run.trace(x).lower(lowering_platforms=(platform,)).as_text()
  return {name for name in ("sine", "cosine") if f"stablehlo.{name} " in text}


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


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="says what a CPU runs")
def test_explain_accounts_for_every_implementation():
  assert OP.explain() == ["op  fast: runs on NVIDIA GPUs; sine", "op  slow: runs on CPUs (here); cosine"]
  text = pallas_kernels.explain()
  assert "expert_ffn  cpu: runs on CPUs" in text
  assert "expert_ffn  reference: can be asked for" in text
