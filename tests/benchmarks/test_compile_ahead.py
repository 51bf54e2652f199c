"""What is compiled ahead is what runs: no decode is compiled twice."""

import logging

import jax
import pytest

from benchmarks.kernels.compile_ahead import compile_ahead
from lynx_jax.bench.decode import bench_decode
from lynx_jax.routing import parse_policy
from tests.small_models import small_params, small_spec


@pytest.fixture
def compiled():
  """The names of programs, as they are compiled."""
  names = []

  class Handler(logging.Handler):
    def emit(self, record):
      message = record.getMessage()
      if message.startswith("Finished XLA compilation of jit("):
        names.append(message.split("jit(")[1].split(")")[0])

  handler, logger = Handler(), logging.getLogger("jax")
  logger.addHandler(handler)
  propagate, logger.propagate = logger.propagate, False
  jax.config.update("jax_log_compiles", True)
  yield names
  jax.config.update("jax_log_compiles", False)
  logger.removeHandler(handler)
  logger.propagate = propagate


@pytest.mark.slow
# JAX describes a lowered program's arguments by trees of the state's classes, which the checker of shapes won't have.
@pytest.mark.usefixtures("own_errors")
def test_a_benchmark_finds_its_programs(compiled):
  # A context of its own: other tests' programs would be found, too.
  params, policies = small_params(small_spec(context=96)), [parse_policy("topk"), parse_policy("lynx:alpha=3,beta=2")]
  compile_ahead(params, [1, 2], policies, length=8, steps=4)
  ahead = sorted(name for name in compiled if name in ("_feed", "prefill"))
  # Two batches under two policies, with and without statistics.
  assert ahead == ["_feed"] * 8 + ["prefill"] * 4
  rows = list(bench_decode(params, [1, 2], policies, prompt_length=8, steps=4, repeats=1))
  assert len(rows) == 4
  assert sorted(name for name in compiled if name in ("_feed", "prefill")) == ahead
