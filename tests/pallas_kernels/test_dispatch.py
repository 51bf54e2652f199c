"""Choosing an implementation: the best that can run, a named one or a reason, and an account of it all."""

import pytest

import pallas_kernels
from pallas_kernels._dispatch import Implementation, Op

GPU_ONLY = Implementation("fast", lambda: "fast", "GPU", lambda platform: None if platform == "gpu" else "needs a GPU")
ANYWHERE = Implementation("slow", lambda: "slow", "anywhere")
OP = Op("op", (GPU_ONLY, ANYWHERE))


def test_the_first_that_can_run_is_taken():
  assert OP.choose() is ANYWHERE
  assert Op("op", (ANYWHERE, GPU_ONLY)).choose() is ANYWHERE


def test_a_named_one_runs_or_says_why_not():
  assert OP.choose("slow") is ANYWHERE
  with pytest.raises(NotImplementedError, match="op: implementation 'fast' cannot run: needs a GPU"):
    OP.choose("fast")
  with pytest.raises(ValueError, match="op has no implementation 'quick': choose one of 'fast', 'slow'"):
    OP.choose("quick")


def test_explain_accounts_for_every_implementation():
  assert OP.explain() == ["op  fast: cannot run: needs a GPU (GPU)", "op  slow: runs (anywhere)"]
  text = pallas_kernels.explain()
  assert "expert_ffn  cpu: runs" in text
  assert "expert_ffn  reference: can be asked for" in text
