"""What only a GPU can show: that the compiled kernels run, and that generation is the CPU's. `make gpu` runs it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from benchmarks.kernels.op_cases import cases
from benchmarks.kernels.op_times import difference
from lynx_jax.engine.programs import compiled_prefill
from lynx_jax.engine.steps import next_logits
from pallas_kernels import row_matmul
from pallas_kernels.gates.shapes import MODEL_SHAPES

pytestmark = pytest.mark.gpu
PROMPTS = ["The man is", "Question: What do plants need to grow? Answer:", "She went to", "Water"]
POLICIES = ("topk", "lynx:alpha=3,beta=2", "oea:k0=1", "prune:k0=2", "mass_floor:tau=0.7", "xshare:budget=12")


@pytest.mark.parametrize("policy", POLICIES)
def test_greedy_text_is_the_cpus(policy):
  policy, cpu = lynx_jax.parse_policy(policy), jax.devices("cpu")[0]
  options = {"policy": policy, "max_new_tokens": 24}
  with jax.default_device(cpu):
    wanted = lynx_jax.generate(lynx_jax.load(dtype="float32"), PROMPTS, **options)
  got = lynx_jax.generate(lynx_jax.load(dtype="float32"), PROMPTS, **options)
  assert [row.token_ids for row in got] == [row.token_ids for row in wanted]


def test_bfloat16_scores_are_close_to_the_cpus():
  def scores(device):
    with jax.default_device(device):
      params = lynx_jax.load(dtype="bfloat16")
      assert params.tokenizer is not None
      ids = [params.tokenizer.encode(prompt) for prompt in PROMPTS]
      lengths = np.array([len(row) for row in ids], np.int32)
      padded = np.zeros((len(ids), 32), np.int32)
      for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = tokens
      state = compiled_prefill(params, padded, lengths, 64)
      # The same token on both devices, whatever each would draw.
      state = dataclasses.replace(state, token=jnp.full_like(state.token, 7))
      return np.asarray(jax.jit(functools.partial(next_logits, policy=None))(params, state)[0])

  cpu, gpu = scores(jax.devices("cpu")[0]), scores(jax.devices("gpu")[0])
  assert np.abs(cpu - gpu).max() < 0.05 * np.abs(cpu).max()


@pytest.mark.parametrize("model", MODEL_SHAPES)
def test_ops_are_near_their_references_at_released_sizes(model):
  for case in cases(MODEL_SHAPES[model], 16, 1024):
    got, wanted = (jax.jit(functools.partial(case.fn, implementation=name))(*case.args) for name in (None, "reference"))
    assert difference(got, wanted) < 0.03, case.what


def test_kernels_run_and_not_their_references():
  assert jax.default_backend() == "gpu"
  x, weight = jnp.ones((16, 256), jnp.bfloat16), jnp.ones((256, 256), jnp.bfloat16)
  text = jax.jit(row_matmul).lower(x, weight).compile().as_text()
  assert text is not None
  assert "row_matmul" in text
