"""The native library: its build, its sanitized driver, every instruction set, and what happens without it."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels import INT4, INT8, Form, bits_of, dequantize, expert_ffn, quantize, row_matmul, use_threads
from pallas_kernels.cpu import build, instruction_sets, library, threads_used, unavailable
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.expert_ffn.cpu import expert_ffn_cpu
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions
from pallas_kernels.row_matmul.cpu import row_matmul_cpu
from tests.pallas_kernels.hlo import arrays_made

HERE = Path(__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
needs_library = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_random_shapes_run_clean_under_sanitizers(tmp_path, sanitizer):
  flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-g", "-O1", build.EMULATED_TILES)
  build.build(tmp_path / "driver", flags=flags, extra_sources=(HERE / "driver.cc",), link=())
  done = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True)
  assert (done.returncode, done.stdout) == (0, "all equal\n"), done.stderr


@needs_compiler
def test_the_declared_interface_is_jaxlibs(tmp_path):
  includes = ["-I", jax.ffi.include_dir(), "-I", str(build.SOURCE)]
  command = [build.compiler(), "-std=c++17", "-fsyntax-only", *includes, str(HERE / "abi.cc")]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def layer(rows=9, experts=5, width=70, expert_width=45, dtype=jnp.bfloat16):
  random = np.random.default_rng(0)
  x = jnp.asarray(random.normal(size=(rows, width)), dtype)
  ids = jnp.asarray(np.stack([random.permutation(experts)[:2] for _ in range(rows)]), jnp.int32)
  weights = jnp.asarray(random.random((rows, 2)), jnp.float32)
  gate_up = jnp.asarray(random.normal(size=(experts, 2 * expert_width, width)) / 8, dtype)
  down = jnp.asarray(random.normal(size=(experts, width, expert_width)) / 8, dtype)
  return x, ids, weights, gate_up, down


def in_form(weight, form):
  layout = "interleaved" if form.code == "int4" else "rows"
  held = quantize(np.asarray(weight), dataclasses.replace(form, layout=layout))
  return jax.tree.map(jnp.asarray, held)


@needs_library
@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_instruction_set_agrees_with_the_reference(instructions, dtype):
  x, ids, weights, gate_up, down = layer(dtype=jnp.dtype(dtype))
  valid = jnp.arange(9) != 4
  tolerance = 1e-5 if dtype == "float32" else 2e-2
  layer_of = ExpertArrays(x, ids, weights, gate_up, down, valid)
  y = expert_ffn_cpu(layer_of, options=ExpertOptions(), instructions=instructions)
  expected = expert_ffn(x, ids, weights, gate_up, down, valid=valid, implementation="reference")
  y, expected = np.asarray(y, np.float32), np.asarray(expected, np.float32)
  np.testing.assert_allclose(y, expected, atol=tolerance * np.abs(expected).max())
  options = {"norm_eps": 1e-5, "dtype": "float32"}
  product = RowArrays(x, (gate_up[0],), x[0], (None,), None)
  (y,) = row_matmul_cpu(product, options=RowOptions(**options), instructions=instructions)
  expected = row_matmul(x, gate_up[0], norm_scale=x[0], **options, implementation="reference")
  np.testing.assert_allclose(y, expected, atol=tolerance * float(jnp.abs(expected).max()))


@needs_library
@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("form", [INT8, INT4, Form(code="int4", group=96)], ids=str)
def test_every_instruction_set_agrees_with_the_weights_that_quantised_ones_stand_for(instructions, form):
  x, ids, weights, *experts = layer(dtype=jnp.float32, experts=3, rows=11, width=200, expert_width=77)
  gate_up, down = held = [in_form(expert, form) for expert in experts]
  wide = [dequantize(expert) for expert in held]
  # 16 bits of a row, or 8 bits of each 32 values: half a step is 0.4 % of the largest, and errors of both signs.
  tolerance = 1e-4 if form.code == "int8" else 3e-2
  arrays = ExpertArrays(x, ids, weights, gate_up, down, jnp.ones(11, bool))
  y = expert_ffn_cpu(arrays, options=ExpertOptions(), instructions=instructions)
  expected = expert_ffn(x, ids, weights, *wide, implementation="reference")
  np.testing.assert_allclose(y, expected, atol=tolerance * float(jnp.abs(expected).max()))
  one, options = in_form(experts[0][0], form), RowOptions(norm_eps=0.0, dtype="float32")
  (y,) = row_matmul_cpu(RowArrays(x, (one,), None, (None,), None), options=options, instructions=instructions)
  expected = row_matmul(x, wide[0][0], implementation="reference")
  np.testing.assert_allclose(y, expected, atol=tolerance * float(jnp.abs(expected).max()))


@needs_library
@pytest.mark.parametrize("instructions", instruction_sets())
def test_scales_of_float16_are_read_exactly(instructions):
  random = np.random.default_rng(0)
  held = quantize(random.normal(size=(48, 64)).astype(np.float32), Form(code="int4", group=32, layout="interleaved"))
  # Of both signs, of all exponents that float16 has, subnormal ones among them.
  scales = random.normal(size=held.scales.shape) * 2.0 ** random.integers(-24, 12, held.scales.shape)
  held = dataclasses.replace(held, scales=scales.astype(np.float16))
  # One input alone, whose value 8 bits hold: the product is the weight.
  for i in (0, 5, 37, 63):
    x = jnp.zeros((1, 64)).at[0, i].set(127.0)
    arrays = RowArrays(x, (jax.tree.map(jnp.asarray, held),), None, (None,), None)
    options = RowOptions(norm_eps=0.0, dtype="float32")
    (y,) = row_matmul_cpu(arrays, options=options, instructions=instructions)
    np.testing.assert_array_equal(y[0], 127 * dequantize(held)[:, i])


@needs_library
@pytest.mark.parametrize("form", [None, INT4])
def test_threads_change_no_bit(form):
  *arguments, gate_up, down = layer(rows=40, width=256, expert_width=192)
  arguments += [gate_up, down] if form is None else [in_form(gate_up, form), in_form(down, form)]
  results = []
  try:
    for threads in (1, 2, 5):
      use_threads(threads)
      assert threads_used() == threads
      results.append(np.asarray(expert_ffn(*arguments, implementation="cpu"), np.float32))
  finally:
    use_threads(None)
  for other in results[1:]:
    np.testing.assert_array_equal(other, results[0])
  with pytest.raises(ValueError, match="count is 0: give at least one thread"):
    use_threads(0)


# In a process of its own, where nothing else asks for memory. New memory would be at least 32 pages a reading.
READS_AGAIN = """
import ctypes, resource, sys
library = ctypes.CDLL(sys.argv[1])
library.lynx_read_bandwidth.restype = ctypes.c_double
library.lynx_read_bandwidth.argtypes = ctypes.c_int64, ctypes.c_int
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = []
for _ in range(5):
  before = faults()
  assert library.lynx_read_bandwidth(64 << 20, 1) > 0
  counts.append(faults() - before)
assert counts[0] >= 32 and max(counts[1:]) < 32, counts
"""


@needs_library
def test_reading_again_takes_no_new_memory():
  path = str(build.HOME / build.LIBRARY)
  done = subprocess.run([sys.executable, "-c", READS_AGAIN, path], capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr


# In a process without JAX, which warns of any fork.
FORKS = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
library.lynx_set_thread_count(3)
assert library.lynx_self_test() == 1
child = os.fork()
if child == 0:
  os._exit(0 if library.lynx_self_test() == 1 else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert library.lynx_self_test() == 1
"""


@needs_library
def test_a_forked_child_runs_loops_of_its_own():
  path = str(build.HOME / build.LIBRARY)
  done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS, path], capture_output=True, text=True, timeout=60)
  assert done.returncode == 0, done.stderr


@needs_library
def test_no_array_of_the_weights_size_is_made_in_a_decode_loop():
  x, ids, weights, *experts = layer(rows=4, experts=16, width=64, expert_width=96)
  held = [jax.tree.map(jnp.asarray, bits_of(np.asarray(weight))) for weight in experts]

  @jax.jit
  def loop(x, gate_up, down, head):
    def step(_, x):
      y = expert_ffn(x, ids, weights, gate_up, down)
      return row_matmul(y, head, residual_TO=x)

    return jax.lax.fori_loop(0, x.shape[1], step, x)

  compiled = loop.lower(x, *held, experts[0][0, :64]).compile()
  assert "lynx_expert_ffn" in (compiled.as_text() or "")
  assert arrays_made(compiled, held[1].bits.size) == []


@needs_library
def test_rows_under_vmap_are_those_alone():
  x, weight = jnp.ones((3, 4, 32)) * jnp.arange(3.0)[:, None, None], jnp.ones((8, 32))
  batched = jax.vmap(lambda x: row_matmul(x, weight, implementation="cpu"))(x)
  np.testing.assert_allclose(batched, jnp.broadcast_to(32 * jnp.arange(3.0)[:, None, None], (3, 4, 8)))


def test_without_a_compiler_the_reason_is_written_down(tmp_path):
  (tmp_path / build.LIBRARY).write_text("old")
  made = build.build_or_say_why(tmp_path, cxx="no-such-compiler")
  assert made.name == build.REASON
  assert made.read_text() == "no C++ compiler (looked for no-such-compiler)\n"
  assert not (tmp_path / build.LIBRARY).exists()


def test_without_the_library_the_loop_runs_and_says_why(monkeypatch, tmp_path):
  (tmp_path / build.REASON).write_text("no C++ compiler\n")
  monkeypatch.setattr(library, "_PATH", tmp_path / build.LIBRARY)
  monkeypatch.setattr(library, "_REASON", tmp_path / build.REASON)
  library._library.cache_clear()
  try:
    arguments = layer(rows=2, dtype=jnp.float32)
    # One is compiled whole and the other is not, so sums may differ in their last bits.
    np.testing.assert_allclose(expert_ffn(*arguments), expert_ffn(*arguments, implementation="loop"), rtol=1e-5)
    assert library.describe() == "the native library is not built: no C++ compiler"
    with pytest.raises(NotImplementedError, match="'cpu' cannot run: the native library is not built: no C"):
      expert_ffn(*arguments, implementation="cpu")
    (tmp_path / build.LIBRARY).write_text("not a library")
    library._library.cache_clear()
    assert library.describe().startswith("the native library does not load: OSError")
  finally:
    monkeypatch.undo()
    library._library.cache_clear()


@needs_library
def test_a_library_of_other_sources_is_not_used(monkeypatch):
  monkeypatch.setattr(library, "fingerprint", lambda: build.fingerprint() ^ 1)
  library._library.cache_clear()
  try:
    assert "built from other sources: run `python -m pallas_kernels.cpu.build`" in str(unavailable())
  finally:
    monkeypatch.undo()
    library._library.cache_clear()
  assert unavailable() is None


@needs_library
def test_an_installation_without_sources_takes_the_library_that_it_has(monkeypatch, tmp_path):
  monkeypatch.setattr(build, "SOURCE", tmp_path / "src")
  assert build.fingerprint() == 0
  library._library.cache_clear()
  try:
    assert unavailable() is None
  finally:
    monkeypatch.undo()
    library._library.cache_clear()


@needs_library
def test_what_it_cannot_take_is_said():
  x, ids, weights, gate_up, down = layer()
  with pytest.raises(NotImplementedError, match="rows of bfloat16 and weights of float32: one dtype for both"):
    expert_ffn(x, ids, weights, gate_up.astype(jnp.float32), down, implementation="cpu")
  arrays = ExpertArrays(x, ids, weights, gate_up, down, jnp.ones(9, bool))
  with pytest.raises(ValueError, match="instructions is 'mmx': this machine has"):
    expert_ffn_cpu(arrays, options=ExpertOptions(), instructions="mmx")
