"""Which kernels are whose: from fabricated profiles, and from the CPU's own, which has what a GPU's has."""

import contextlib
import itertools
import types

import jax
import jax.numpy as jnp
import pytest

from benchmarks.kernels import kernel_time
from benchmarks.kernels.gpu_trace import Kernel, kernel_of
from benchmarks.kernels.kernel_time import TimedCall, call_seconds, call_times, kernels_by_call
from pallas_kernels.gates.deviceless import compile_for
from tests.benchmarks.cpu_trace import cpu_traced

FLUSH, COPY = Kernel("loop_add_fusion", 0, 900, "jit_flush_caches"), Kernel("MemcpyD2D", 0, 5, "jit_copy_first")
ONE = [Kernel("row_matmul", 0, 10, "jit_timed_0")]
TWO = [Kernel("expert_hidden", 0, 20, "jit_timed_1"), Kernel("expert_down", 0, 7, "jit_timed_1")]
MODULES = ["jit_timed_0", "jit_timed_1"]


def profile(rounds, *calls, named=True, flush=FLUSH, copy=(COPY,)):
  """What is seen when the calls run, each kernel a nanosecond longer than the one before it."""
  launched = [flush, *(kernel for _ in calls for kernel in (flush, *copy))]
  for _ in range(rounds):
    launched += [kernel for call in calls for kernel in (flush, *copy, *call)]
  return [
    kernel._replace(start=1000.0 * at, duration=kernel.duration + at, module=kernel.module if named else None)
    for at, kernel in enumerate(launched)
  ]


@pytest.mark.parametrize("named", [True, False])
def test_every_kernel_goes_to_its_call_and_round(named):
  found = kernels_by_call(profile(3, ONE, TWO, named=named), MODULES, 3)
  assert [[[kernel.name for kernel in launched] for launched in each] for each in found] == [
    [["row_matmul"]] * 3,
    [["expert_hidden", "expert_down"]] * 3,
  ]
  assert found[0][0][0].duration == 10 + 7
  assert found[1][2][1].duration == 7 + 7 + 2 * 7 + 4
  assert call_times("jit_timed_1", found[1]) == pytest.approx([1e-9 * (20 + 7 + 2 * at + 1) for at in (10, 17, 24)])


def test_order_tells_copies_that_are_kernels_from_calls_of_the_same_kernels():
  copy = (Kernel("wrapped_copy", 0, 5), Kernel("wrapped_copy_1", 0, 5))
  call = [*copy, *ONE]
  found = kernels_by_call(profile(2, call, named=False, copy=copy), MODULES[:1], 2)
  assert [[kernel.name for kernel in launched] for launched in found[0]] == [
    ["wrapped_copy", "wrapped_copy_1", "row_matmul"]
  ] * 2


def test_a_copy_that_no_program_owns_does_not_hide_the_programs_of_others():
  kernels = [kernel._replace(module=None) if kernel.copies else kernel for kernel in profile(2, ONE, TWO)]
  assert len(kernels_by_call(kernels, MODULES, 2)[1][0]) == 2


def test_time_is_that_of_named_kernels_and_never_of_copies():
  rounds = [[Kernel("MemcpyD2D", 0, 100), Kernel("expert_hidden", 0, 20), Kernel("expert_down", 0, 7)]]
  assert call_times("jit_timed_1", rounds) == [pytest.approx(27e-9)]
  assert call_times("jit_timed_1", rounds, "expert_down") == [pytest.approx(7e-9)]
  with pytest.raises(RuntimeError, match=r"no kernel that is named row_matmul\.\.\..*expert_down"):
    call_times("jit_timed_1", rounds, "row_matmul")


def test_what_cannot_be_told_is_an_error():
  flush_inside = [FLUSH._replace(module="jit_timed_0"), *ONE]
  assert kernels_by_call(profile(2, flush_inside, TWO), MODULES, 2)[0][0][0].name == FLUSH.name
  with pytest.raises(RuntimeError, match=r"9 launches of 'loop_add_fusion', its first, for 7 flushes"):
    kernels_by_call(profile(2, flush_inside, TWO, named=False), MODULES, 2)
  with pytest.raises(RuntimeError, match="no kernel: CUPTI"):
    kernels_by_call([], MODULES, 2)
  with pytest.raises(RuntimeError, match="other kernels than before"):
    kernels_by_call(profile(2, ONE, named=False)[:-2] + ONE + ONE, MODULES[:1], 2)


@pytest.mark.parametrize("named", [True, False])
def test_a_lost_launch_is_an_error_and_not_a_smaller_time(named):
  whole = profile(3, ONE, TWO, named=named)
  for lost in range(1 + 2 * 2, len(whole)):
    if whole[lost].name not in (FLUSH.name, COPY.name):
      with pytest.raises(RuntimeError):
        kernels_by_call(whole[:lost] + whole[lost + 1 :], MODULES, 3)


def test_an_event_gives_its_program():
  def event(*stats):
    return types.SimpleNamespace(name="fusion", start_ns=5.0, duration_ns=2.0, stats=stats)

  assert kernel_of(event(("hlo_op", "fusion.1"), ("hlo_module", "jit_step(17)"))) == Kernel("fusion", 5, 2, "jit_step")
  assert kernel_of(event(("correlation_id", 3))) == Kernel("fusion", 5, 2, None)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="its own profiles are like that")
@pytest.mark.parametrize("named", [True, False])
def test_a_profile_of_this_cpu_is_sorted_to_its_calls(monkeypatch, named):
  @contextlib.contextmanager
  def traced():
    with cpu_traced() as kernels:
      yield kernels
    seen.extend(kernels)
    kernels[:] = [kernel if named else kernel._replace(module=None) for kernel in kernels]

  seen: list[Kernel] = []
  x, w = jnp.ones((16, 64)), jnp.ones((64, 512))
  calls = [
    TimedCall(lambda x, w: jnp.cos(jnp.cumsum(x @ w, axis=1)), (x, w)),
    TimedCall(lambda x: jnp.sort(x, axis=1), (x[:, ::-1],), kernel="sort"),
  ]
  monkeypatch.setattr(kernel_time, "traced", traced)
  monkeypatch.setattr(kernel_time, "_FLUSHED", 1)
  # CPUs take two kernels for the sum that is one on a GPU.
  monkeypatch.setattr(kernel_time, "flush_caches", lambda waste: waste + 1)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  times = call_seconds(calls, rounds=3)
  for call, seconds in zip(calls, times, strict=True):
    own = [kernel for kernel in seen if kernel.module == call.module and kernel.name.startswith(call.kernel)]
    each = len(own) // 3
    by_round = [sum(kernel.duration for kernel in own[each * at : each * (at + 1)]) for at in range(3)]
    assert seconds == pytest.approx(1e-9 * sorted(by_round)[1])


def test_a_flush_is_one_kernel():
  waste = jax.ShapeDtypeStruct((192 * 2**18,), jnp.int32)
  thunks = compile_for(kernel_time.flush_caches, (waste,), graph=False, options=kernel_time._APART).thunks
  assert [thunk.kind for thunk in thunks] == ["kCustomKernel"]


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="by the clock elsewhere")
def test_every_call_has_a_program_of_its_own_and_a_time():
  calls = [TimedCall(jnp.sin, (jnp.ones((8,)),)) for _ in range(2)]
  assert all(f"HloModule {call.module}," in (call._compiled.as_text() or "") for call in calls)
  assert len({call.module for call in calls}) == 2
  assert all(seconds > 0 for seconds in call_seconds(calls, rounds=2))


def test_timed_calls_launch_kernels_one_by_one_and_not_as_a_cuda_graph():
  def many(x):
    return [jnp.sort(jnp.cumsum(x, axis=axis), axis=axis) for axis in (0, 1)]

  args = (jax.ShapeDtypeStruct((64, 256), jnp.float32),)
  kinds = [
    {thunk.kind for thunk in compile_for(many, args, graph=False, options=options).thunks}
    for options in (None, kernel_time._APART)
  ]
  assert ["kCommandBuffer" in each for each in kinds] == [True, False]
  assert "kCustomKernel" in kinds[1]


def test_flushes_and_rounds_of_fabricated_profiles_are_as_many_as_the_reader_expects():
  kernels = profile(3, ONE, TWO)
  assert sum(kernel.name == FLUSH.name for kernel in kernels) == 1 + 2 * (1 + 3)
  assert all(one.start < other.start for one, other in itertools.pairwise(kernels))
