"""`load(weights=...)`: what is quantised, what it costs in memory and in logits, and that every path runs it."""

import dataclasses
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lynx_jax
from benchmarks.load_memory import load_memory
from lynx_jax.bench.decode import bench_decode
from lynx_jax.info import describe
from lynx_jax.models.checkpoints import convert
from lynx_jax.models.decoder import run_causal
from lynx_jax.models.moe import MoESpec
from lynx_jax.models.parameters import by_path
from lynx_jax.models.sizes import bytes_of, expert_bytes, weight_bytes
from lynx_jax.placement import WEIGHTS
from lynx_jax.testing import random_checkpoint
from pallas_kernels import QuantizedWeight, dequantize, quantize
from pallas_kernels.cpu import library, unavailable
from tests.checkpoints_convert.tampering import with_tensors
from tests.families.cases import (
  CASES,
  DEEPSEEK_V3,
  GPT_OSS,
  GRANITEMOE,
  OLMOE,
  QWEN3_MOE,
  Case,
  checkpoint,
  random_tokens,
)
from tests.held import held
from tests.small_models import random_prompts

PLAIN = [case for case in CASES if case.name == "plain"]
_forward = jax.jit(lynx_jax.forward)


@jax.jit
def _own_routing(params, tokens):
  """The experts of each position and MoE layer under the model's own routing."""
  _, _, traces = run_causal(params.decoder, tokens, jnp.full(tokens.shape[:1], tokens.shape[1]))
  return jnp.stack([trace.routing.ids.reshape(*tokens.shape, -1) for trace in traces], axis=2)


@functools.cache
def embedded(**options):
  return lynx_jax.load(**options)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_all_matrices_of_products_are_quantised_and_nothing_else_is(case: Case, weights: str):
  whole, narrow = (held(lynx_jax.load(checkpoint(case), weights=how)) for how in (None, weights))
  tied = "head" not in whole
  kept = r".*(norm\.scale|norm\.bias|bias|sinks|router|shared_gate|key_up|value_up)"
  for name, weight in whole.items():
    ours = narrow[name]
    if re.fullmatch(kept, name) or (name == "embedding" and not tied):
      np.testing.assert_array_equal(ours, weight, err_msg=name)
      assert ours.dtype == weight.dtype
    else:
      assert isinstance(ours, QuantizedWeight), name
      expert = weights == "int4" and re.fullmatch(r".*\.ffn\.(gate_up|down)", name) and weight.ndim == 3
      assert (ours.form.code, ours.form.group) == (("int4", 32) if expert else ("int8", None)), name
      expected = quantize(np.asarray(weight), ours.form)
      np.testing.assert_array_equal(ours.values, expected.values, err_msg=name)
      np.testing.assert_array_equal(ours.scales, expected.scales, err_msg=name)


# What 16 bits a row leave, natively, through two layers; 8 bits of every 32 inputs where experts have 4 bits.
ERRORS = {"int8": 1e-3, "int4": 3e-2}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_logits_are_those_of_the_weights_that_they_stand_for(case: Case, weights: str):
  path, tokens = checkpoint(case), random_tokens(case, rows=2, length=19)
  narrow = lynx_jax.load(path, weights=weights)
  wide = jax.tree.map(
    lambda weight: dequantize(weight) if isinstance(weight, QuantizedWeight) else weight,
    narrow,
    is_leaf=lambda weight: isinstance(weight, QuantizedWeight),
  )
  # Under int4's rounding a router's close call may fall otherwise, and then a row runs other experts.
  routing = _own_routing(wide, tokens) if weights == "int4" else None
  ours, theirs = (np.asarray(_forward(params, tokens, routing=routing)) for params in (narrow, wide))
  errors = np.abs(ours - theirs).max(axis=-1)
  # SparseMixer's weights jump where an expert's score is just masked: some positions of Phi may go another way.
  worst = np.quantile(errors, 0.9) if (case.family, weights) == ("phimoe", "int4") else errors.max()
  assert worst < ERRORS[weights] * np.abs(theirs).max()


# Grouped queries with every flag, latents with shared experts, biased experts, a tied head.
@pytest.mark.parametrize("case", [QWEN3_MOE[3], DEEPSEEK_V3[0], GPT_OSS[0], GRANITEMOE[0]], ids=str)
def test_cached_steps_give_the_logits_of_the_whole_text(case: Case):
  params, tokens, prompt = lynx_jax.load(checkpoint(case), weights="int8"), random_tokens(case, rows=2, length=16), 9
  whole = np.asarray(_forward(params, tokens))
  state = jax.jit(lynx_jax.prefill, static_argnames="capacity")(
    params, tokens[:, :prompt], np.full((2,), prompt, np.int32), 32
  )
  state = dataclasses.replace(state, finish=jnp.zeros_like(state.finish))
  step = jax.jit(lynx_jax.next_logits)
  for place in range(prompt, 16):
    logits, state = step(params, dataclasses.replace(state, token=jnp.asarray(tokens[:, place])))
    assert np.abs(np.asarray(logits) - whole[:, place]).max() < 1e-3 * np.abs(whole).max()


def greedy(params, prompts: list[list[int]], steps: int) -> np.ndarray:
  """Tokens of a decode loop that is traced anew."""
  lengths = np.array([len(prompt) for prompt in prompts], np.int32)
  tokens = np.zeros((len(prompts), lengths.max()), np.int32)
  for row, prompt in zip(tokens, prompts, strict=True):
    row[: len(prompt)] = prompt
  requests = lynx_jax.greedy_requests(len(prompts), steps, ())

  @jax.jit
  def run(params):
    state = lynx_jax.prefill(params, tokens, lengths, 64, requests)
    return lynx_jax.decode_loop(params, state, max_steps=steps).output[:, :steps]

  return np.asarray(run(params))


@pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))
@pytest.mark.parametrize("case", [QWEN3_MOE[3], OLMOE[0]], ids=str)
def test_native_code_and_plain_jax_write_the_same_greedy_text(case: Case, monkeypatch: pytest.MonkeyPatch):
  params, prompts = lynx_jax.load(checkpoint(case), weights="int8"), random_prompts((3, 9, 6))
  native = greedy(params, prompts, 24)
  monkeypatch.setattr(library, "_library", lambda: "switched off by a test")
  np.testing.assert_array_equal(greedy(params, prompts, 24), native)


def test_decoded_logits_of_the_embedded_model_stay_near_those_of_its_own_weights():
  whole, narrow = embedded(), embedded(weights="int8")
  text = "The man is standing in front of a camera and talking to the people. He is holding a ball in his hand."
  assert whole.tokenizer is not None
  ids = np.array([whole.tokenizer.encode(text)], np.int32)
  found = []
  for params in (whole, narrow):
    state = jax.jit(lynx_jax.prefill, static_argnames="capacity")(params, ids[:, :1], np.ones(1, np.int32), 64)
    state = dataclasses.replace(state, finish=jnp.zeros_like(state.finish))
    step, rows = jax.jit(lynx_jax.next_logits), []
    for token in ids[0, 1:]:
      logits, state = step(params, dataclasses.replace(state, token=jnp.array([token])))
      rows.append(jax.nn.log_softmax(logits[0]))
    found.append(np.asarray(jnp.stack(rows), np.float64))
  divergence = (np.exp(found[0]) * (found[0] - found[1])).sum(axis=-1)
  # Measured over 10,000 tokens: 0.0008 nats a token (bfloat16 itself is 0.0003 from float32).
  assert 0 < divergence.mean() < 0.003
  assert np.median(np.abs(found[0] - found[1]).max(axis=-1)) < 0.4


def test_a_converted_directory_and_another_dtype_load_as_int8(tmp_path: Path):
  convert(checkpoint(QWEN3_MOE[3], "bfloat16"), tmp_path / "out")
  hub, converted = (
    lynx_jax.load(path, weights="int8") for path in (checkpoint(QWEN3_MOE[3], "bfloat16"), tmp_path / "out")
  )
  for first, second in zip(jax.tree.leaves(hub), jax.tree.leaves(converted), strict=True):
    np.testing.assert_array_equal(first, second)
  wide = lynx_jax.load(tmp_path / "out", dtype="float32", weights="int8")
  assert {leaf.dtype.name for leaf in jax.tree.leaves(wide)} == {"float32", "int8"}
  assert wide.decoder.dtype == jnp.float32
  assert hub.decoder.dtype == jnp.bfloat16


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("case", [QWEN3_MOE[3], DEEPSEEK_V3[0]], ids=str)
def test_a_directory_that_was_converted_to_few_bits_is_what_loading_makes(case: Case, weights: str, tmp_path: Path):
  path = checkpoint(case, "bfloat16")
  convert(path, tmp_path / "out", weights=weights)
  expected, found = lynx_jax.load(path, weights=weights), lynx_jax.load(tmp_path / "out")
  assert jax.tree.structure(expected.decoder) == jax.tree.structure(found.decoder)
  for first, second in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
    np.testing.assert_array_equal(first, second)
  lynx_jax.load(tmp_path / "out", weights=weights)
  size = weight_bytes(found.decoder).total
  assert f"{size / 1e6:.2f} MB" in dict(describe(tmp_path / "out"))["weights"]
  assert (
    dict(describe(tmp_path / "out"))["dtype"] == f"bfloat16, stored as {'int4 and ' if weights == 'int4' else ''}int8"
  )
  assert lynx_jax.load(tmp_path / "out", dtype="float32").decoder.dtype == jnp.float32


def test_what_converting_to_few_bits_cannot_do_is_named(tmp_path: Path):
  path = checkpoint(OLMOE[0])
  with pytest.raises(ValueError, match="weights is 'int3'"):
    convert(path, tmp_path / "out", weights="int3")


def test_what_a_directory_holds_in_few_bits_is_copied_made_plain_and_quantised_anew(tmp_path: Path):
  convert(checkpoint(OLMOE[0]), tmp_path / "out", weights="int4")
  found = held(lynx_jax.load(tmp_path / "out"))
  convert(tmp_path / "out", tmp_path / "again")
  for first, second in zip(
    jax.tree.leaves(found), jax.tree.leaves(held(lynx_jax.load(tmp_path / "again"))), strict=True
  ):
    np.testing.assert_array_equal(first, second)
  plain, eight = (held(lynx_jax.load(tmp_path / "out", weights=how)) for how in ("float", "int8"))
  for path, weight in found.items():
    expected = dequantize(weight)
    np.testing.assert_array_equal(plain[path], expected, err_msg=path)
    if isinstance(weight, QuantizedWeight):
      again = quantize(np.asarray(expected))
      np.testing.assert_array_equal(eight[path].values, again.values if weight.kind == "int4" else weight.values)


def test_what_cannot_be_held_or_written_or_trained_is_named(tmp_path: Path):
  with pytest.raises(ValueError, match="weights is 'int3': choose 'int8', 'int4', 'float', or None to keep what"):
    lynx_jax.load(checkpoint(OLMOE[0]), weights="int3")
  name = "model.layers.1.self_attn.k_proj.weight"
  path = with_tensors(OLMOE[0], tmp_path, lambda tensors: tensors | {name: np.full_like(tensors[name], np.nan)})
  with pytest.raises(ValueError, match=r"layers\.1\.attention\.key: a weight that is NaN or infinite"):
    lynx_jax.load(path, weights="int8")
  params = lynx_jax.load(checkpoint(OLMOE[0]), weights="int8")
  with pytest.raises(
    ValueError, match="weights are int8, which are no plain numbers: load the checkpoint with weights='float'"
  ):
    by_path(params.decoder)
  with pytest.raises(ValueError, match="int8 experts cannot be trained: load them with weights='float'"):
    run_causal(params.decoder, jnp.zeros((1, 4), jnp.int32), jnp.array([4]), expert_capacity=4)


def test_bytes_are_those_of_int8_and_its_scales():
  whole, narrow = embedded(), embedded(weights="int8")
  moe = whole.spec.layers[0].ffn
  assert isinstance(moe, MoESpec)
  one = 3 * 256 * 128
  assert expert_bytes(whole.decoder) == (2 * one,) * 6
  assert expert_bytes(narrow.decoder) == (one + 4 * (2 * 128 + 256),) * 6
  size = weight_bytes(narrow.decoder)
  assert size.total == bytes_of(narrow) < 0.52 * bytes_of(whole)
  assert size.experts == moe.experts * sum(expert_bytes(narrow.decoder))
  lines = dict(describe(None, "int8"))
  assert lines["dtype"] == "bfloat16, most weights held as int8"
  assert lines["weights"] == f"{size.total / 1e6:.2f} MB, of which experts {size.experts / 1e6:.2f} MB"
  assert lines["read per token alone"] == f"{(size.total - size.experts * 28 // 32) / 1e6:.2f} MB"
  with pytest.raises(ValueError, match="weights is 'fp4'"):
    describe(None, "fp4")
  (row,) = bench_decode(narrow, [2], [lynx_jax.TopK()], prompt_length=2, steps=2, repeats=1)
  assert row.expert_bytes == pytest.approx(row.active_experts * sum(expert_bytes(narrow.decoder)))
  assert row.bytes_per_second * row.step_ms / 1e3 == pytest.approx(size.total - size.experts + row.expert_bytes)


def test_four_bits_and_their_scales_are_counted():
  lines = dict(describe(None, "int4"))
  assert lines["dtype"] == "bfloat16, experts held as int4 and most other weights as int8"
  one = 3 * 256 * 128
  whole, eight = (6 * 32 * one * size / 1e6 for size in (4.5 / 8, 1))
  assert lines["weights"].endswith(f"of which experts {whole:.2f} MB")
  eight_bits, four_bits = (float(dict(describe(None, how))["weights"].split()[0]) for how in WEIGHTS)
  assert eight_bits - four_bits == pytest.approx(eight + 6 * 32 * 4 * 512 / 1e6 - whole, abs=0.02)


def test_loading_four_bits_takes_little_more_than_they_do(tmp_path: Path):
  arguments = ["--layers", "16", "--experts", "8", "--vocab", "500", "--shard-mb", "40"]
  assert random_checkpoint.main([str(tmp_path / "model"), *arguments]) == 0
  found = load_memory(tmp_path / "model", weights="int4")
  assert 0.9 < found.ratio < 1.1


def test_loading_a_directory_of_four_bits_takes_a_parameter_more_than_they_do(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
  arguments = ["--layers", "16", "--experts", "8", "--vocab", "500", "--shard-mb", "40"]
  assert random_checkpoint.main([str(tmp_path / "model"), *arguments]) == 0
  convert(tmp_path / "model", tmp_path / "four", weights="int4")
  # What Orbax's threads give back, glibc keeps for them (docs/LOG.md); this is about what our code holds.
  monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000000")
  found = load_memory(tmp_path / "four")
  largest = 8 * 2 * 1024 * 1024 * 4.5 / 8
  assert found.weights > 20 * largest
  assert 0.9 * found.weights < found.peak < 1.1 * found.weights + largest


def test_the_host_never_holds_more_than_a_parameter_beside_the_int8_weights(tmp_path: Path):
  arguments = ["--layers", "8", "--experts", "4", "--vocab", "500", "--shard-mb", "40"]
  assert random_checkpoint.main([str(tmp_path / "model"), *arguments]) == 0
  found = load_memory(tmp_path / "model", weights="int8")
  assert 130e6 < found.weights < 0.52 * found.files
  assert 0.9 < found.ratio < 1.5
  assert found.peak < 0.8 * found.files
