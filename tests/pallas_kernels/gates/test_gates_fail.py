"""Every gate is shown to fail on a program made to break it, and to pass one that does not."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels import gates
from pallas_kernels.expert_ffn.gate_programs import programs
from pallas_kernels.gates import deviceless
from pallas_kernels.gates.forms import HELD
from pallas_kernels.gates.shapes import MODEL_SHAPES
from pallas_kernels.gpu.blocks import questions, trying
from tests.pallas_kernels.gates.targets import TARGETS

# Weights larger than the partial sums into which XLA splits a product of few rows.
ROWS, WIDTH, CAPACITY = 16, 2048, 2**18
X = jax.ShapeDtypeStruct((ROWS, WIDTH), jnp.bfloat16)
WEIGHTS = jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.bfloat16)


def kernel_call(kernel, out, warps=4):
  def call(*args):
    return pl.pallas_call(kernel, out_shape=out, compiler_params=plgpu.CompilerParams(num_warps=warps))(*args)

  return call


def product(x_ref, w_ref, y_ref):
  def step(k, total):
    x, w = x_ref[:, pl.ds(k * 64, 64)], w_ref[pl.ds(k * 64, 64), pl.ds(0, 64)]
    return total + jnp.dot(x, w, preferred_element_type=jnp.float32)

  y_ref[...] = jax.lax.fori_loop(0, WIDTH // 64, step, jnp.zeros((ROWS, 64), jnp.float32))


def sum_of_products(x_ref, y_ref):
  y_ref[...] = jnp.sum(x_ref[...].astype(jnp.float32) ** 2, axis=1)


def spilling(x_ref, y_ref):
  # 64 tiles that must all be alive at once, in one warp: 1024 values a thread.
  tiles = [x_ref[:, pl.ds(32 * i, 32)].astype(jnp.float32) for i in range(64)]
  total = sum(tiles[1:], tiles[0])
  for tile in tiles:
    total = total * tile + jnp.max(total, axis=1, keepdims=True)
  y_ref[...] = total


GOOD = kernel_call(product, jax.ShapeDtypeStruct((ROWS, 64), jnp.float32))


@pytest.mark.parametrize("target", TARGETS)
def test_a_plain_product_passes(target: str):
  report = gates.compile_for(GOOD, (X, WEIGHTS), target)
  kernels = report.kernels.values()
  gates.no_spills(kernels)
  gates.uses_tensor_cores(kernels)
  gates.within_limits(report, kernels, blocks_per_sm=2)
  gates.captured(report)
  assert gates.kernel_launches(report) == ["product"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_that_spills_is_seen(target: str):
  call = kernel_call(spilling, jax.ShapeDtypeStruct((ROWS, 32), jnp.float32), warps=1)
  with pytest.raises(gates.GateError, match=r"spilling \(sm_\w+\) spills \d+ bytes"):
    gates.no_spills(gates.compile_for(call, (X,), target).kernels.values())


def test_a_kernel_without_matrix_instructions_is_seen():
  call = kernel_call(sum_of_products, jax.ShapeDtypeStruct((ROWS,), jnp.float32))
  with pytest.raises(gates.GateError, match=r"sum_of_products .* neither mma\.sync nor wgmma"):
    gates.uses_tensor_cores(gates.compile_for(call, (X,)).kernels.values())


def converted(x_ref, w_ref, y_ref):
  """A product with bytes, each of which is converted by itself."""

  def step(k, total):
    x = x_ref[:, pl.ds(k * 64, 64)]
    w = w_ref[pl.ds(0, 64), pl.ds(k * 64, 64)].astype(jnp.float32).astype(jnp.bfloat16)
    return total + jnp.dot(x, w.T, preferred_element_type=jnp.float32)

  y_ref[...] = jax.lax.fori_loop(0, WIDTH // 64, step, jnp.zeros((ROWS, 64), jnp.float32))


@pytest.mark.parametrize("target", TARGETS)
def test_weights_that_are_converted_one_by_one_are_seen(target: str):
  call = kernel_call(converted, jax.ShapeDtypeStruct((ROWS, 64), jnp.float32))
  report = gates.compile_for(call, (X, jax.ShapeDtypeStruct((64, WIDTH), jnp.uint8)), target)
  with pytest.raises(gates.GateError, match=r"no multiplications of pairs, \d+ conversions of single integers"):
    gates.packed_in_registers(report.kernels.values())


def test_a_kernel_that_needs_more_registers_than_there_are_for_its_blocks_is_seen():
  fn, args = programs(MODEL_SHAPES["Qwen3-30B-A3B"], HELD["int4, groups of 32"])["decode, T=16"]
  with questions() as asked:
    jax.eval_shape(lambda *given: fn(*given), *args)
  question = next(one for one in asked if one[0] == "expert_hidden")
  with trying(question, dataclasses.replace(asked[question], columns=64, warps=1)):
    report = gates.compile_for(lambda *given: fn(*given), args)
  with pytest.raises(gates.GateError, match=r"expert_hidden .* spills \d+ bytes"):
    gates.no_spills([report.kernels["expert_hidden"]])


def test_a_kernel_that_fills_a_multiprocessor_is_seen():
  report = gates.compile_for(GOOD, (X, WEIGHTS))
  with pytest.raises(gates.GateError, match=r"product .*: \d+ blocks fit a multiprocessor, expected 33"):
    gates.within_limits(report, report.kernels.values(), blocks_per_sm=33)


def loop(x, weights, cache):
  """Eight steps that read weights and write one column of a cache each."""

  def step(index, carry):
    x, cache = carry
    x = jnp.tanh(x @ weights)
    return x, jax.lax.dynamic_update_slice(cache, x[:, :1], (0, index))

  return jax.lax.fori_loop(0, jnp.int32(x[0, 0]) + 8, step, (x, cache))


LOOP_INPUTS = (X, WEIGHTS, jax.ShapeDtypeStruct((ROWS, CAPACITY), jnp.bfloat16))
SMALLEST = min(WIDTH * WIDTH, ROWS * CAPACITY) * 2


def test_a_loop_with_a_donated_cache_is_one_graph_without_copies():
  report = gates.compile_for(loop, LOOP_INPUTS, donate_argnums=(2,))
  gates.captured(report)
  gates.no_copy_of(report, SMALLEST)


def test_a_loop_that_stays_on_the_host_is_seen():
  with pytest.raises(gates.GateError, match=r"0 command buffers, and outside of them .*kWhile"):
    gates.captured(gates.compile_for(loop, LOOP_INPUTS, graph=False, donate_argnums=(2,)))


def test_a_cache_that_is_not_donated_is_seen():
  with pytest.raises(gates.GateError, match=r"copy.* makes 8388608 bytes: an array of weights or cache is copied"):
    gates.no_copy_of(gates.compile_for(loop, LOOP_INPUTS), SMALLEST)


def test_weights_that_are_widened_are_seen():
  def widened(x, weights):
    wide = jax.lax.optimization_barrier(weights.astype(jnp.float32))
    return x.astype(jnp.float32) @ wide

  with pytest.raises(gates.GateError, match="makes 16777216 bytes"):
    gates.no_copy_of(gates.compile_for(widened, (X, WEIGHTS)), SMALLEST)


def test_a_stack_of_weights_that_a_scan_slices_for_a_kernel_is_seen():
  stack = jax.ShapeDtypeStruct((4, WIDTH, WIDTH), jnp.bfloat16)

  def sliced(x, stack):
    return jax.lax.scan(lambda y, weights: (y + GOOD(x, weights), None), jnp.zeros((ROWS, 64)), stack)[0]

  with pytest.raises(gates.GateError, match="makes 8388608 bytes"):
    gates.no_copy_of(gates.compile_for(sliced, (X, stack)), SMALLEST)


def test_an_assembler_older_than_jaxlib_says_so_and_what_to_install(tmp_path, monkeypatch):
  old = tmp_path / "ptxas"
  old.write_text("#!/bin/sh\necho \"Unsupported .version 9.4; current version is '8.8'\" >&2\nexit 255\n")
  old.chmod(0o755)
  monkeypatch.setattr(deviceless, "ptxas", lambda: old)
  with pytest.raises(RuntimeError, match=r"upgrade nvidia-cuda-nvcc brings a newer one.*Unsupported .version 9.4"):
    gates.compile_for(lambda x: x + 1, (X,))
