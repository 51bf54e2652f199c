"""Times compiled calls: on a GPU by the profiler, as the sum of their kernels; elsewhere by the clock."""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels.gpu_trace import Kernel, traced

# Kernels inside CUDA graphs may not say whose they are.
_APART: dict[str, str | bool] = {"xla_gpu_enable_command_buffer": ""}
# More than any GPU's caches hold, in megabytes.
_FLUSHED = 192
_numbers = itertools.count()


class TimedCall:
  """A function compiled on construction to be called with `args`, in a program of its own name.

  Args:
    fn: a function of arrays.
    args: what it's called with; the first is one array.
    kernel: on a GPU, only kernels whose names begin so are counted.
  """

  def __init__(self, fn: Callable[..., Any], args: Sequence[Any], *, kernel: str = ""):
    def call(*args: Any) -> Any:
      return fn(*args)

    call.__name__ = call.__qualname__ = f"timed_{next(_numbers)}"
    self.args, self.kernel, self.module = tuple(args), kernel, f"jit_{call.__name__}"
    self._compiled = jax.jit(call).lower(*self.args).compile(compiler_options=_APART)

  def __call__(self, *first: jax.Array) -> Any:
    """The function's result; `first` stands for the first argument where it's given."""
    return self._compiled(*(first or self.args[:1]), *self.args[1:])


def call_seconds(calls: Sequence[TimedCall], *, rounds: int = 7) -> list[float]:
  """Median time of each call over so many rounds, in seconds.

  On a GPU it's the sum of the durations of the kernels that the call launches, copies of memory left out. Before each
  call more memory than the caches hold is read, as other weights are between two layers' calls in a decode step, and a
  copy of the first argument is made, which is in the caches when the call begins, as activations are. Elsewhere it's
  the time until the result is there.

  Raises:
    RuntimeError: the profile doesn't say clearly which kernels are whose.
  """
  for call in calls:
    jax.block_until_ready(call())
  if jax.default_backend() != "gpu":
    by_round = [[_clocked(call) for call in calls] for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*by_round, strict=True)]
  kernels = _profiled(calls, rounds)
  found = kernels_by_call(kernels, [call.module for call in calls], rounds)
  timed = [call_times(call.module, each, call.kernel) for call, each in zip(calls, found, strict=True)]
  return [statistics.median(times) for times in timed]


def _clocked(call: TimedCall) -> float:
  begin = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - begin


def _profiled(calls: Sequence[TimedCall], rounds: int) -> list[Kernel]:
  """A profile of what `kernels_by_call` expects."""

  def copy_first(x: jax.Array) -> jax.Array:
    return jnp.copy(x)

  flush = jax.jit(flush_caches, compiler_options=_APART)
  copy = jax.jit(copy_first, compiler_options=_APART)
  waste = jnp.ones((_FLUSHED * 2**18,), jnp.int32)
  jax.block_until_ready([flush(waste), *(copy(call.args[0]) for call in calls)])
  with traced() as kernels:
    flush(waste)
    for number in range(1 + rounds):
      for call in calls:
        flush(waste)
        first = copy(call.args[0])
        jax.block_until_ready(call(first) if number else first)
  return kernels


def flush_caches(waste: jax.Array) -> jax.Array:
  """Reads all of `waste`, whole numbers, in one kernel; were it written, the next call would pay for that."""
  return waste.reshape(-1, 1024).sum(1)


def kernels_by_call(kernels: Sequence[Kernel], modules: Sequence[str], rounds: int) -> list[list[list[Kernel]]]:
  """For each call and each round, the kernels that the call launched.

  The profile is of: a flush; for each call a flush and a copy of its first argument; then, so many rounds, for each
  call a flush, the copy and the call. Launches that say which program they're of are sorted by that. If one doesn't,
  all are sorted by their order, the flush being known by its name.

  Args:
    kernels: of the profile, in order of start.
    modules: names of the calls' programs.
    rounds: how many there were.

  Raises:
    RuntimeError: a call's kernels differ from round to round or are none, or the flushes can't be told.
  """
  if not kernels:
    raise RuntimeError("the profile has no kernel: CUPTI, which jax[cuda12] or jax[cuda13] brings, recorded none")
  named = all(kernel.module or kernel.copies for kernel in kernels)
  found = _by_module(kernels, modules, rounds) if named else _by_order(kernels, len(modules), rounds)
  for module, each in zip(modules, found, strict=True):
    launched = [Counter(kernel.name for kernel in one) for one in each]
    if not launched[0] or any(one != launched[0] for one in launched):
      raise RuntimeError(f"{module} launched {[dict(one) for one in launched]} in its rounds, not the same in each")
  return found


def _by_module(kernels: Sequence[Kernel], modules: Sequence[str], rounds: int) -> list[list[list[Kernel]]]:
  own: dict[str, list[Kernel]] = {module: [] for module in modules}
  for kernel in kernels:
    if kernel.module in own:
      own[kernel.module].append(kernel)
  found = []
  for module, every in own.items():
    each, left = divmod(len(every), rounds)
    if left:
      raise RuntimeError(f"{module} launched {len(every)} kernels in {rounds} rounds, not the same number in each")
    found.append([every[each * number : each * (number + 1)] for number in range(rounds)])
  return found


def _by_order(kernels: Sequence[Kernel], calls: int, rounds: int) -> list[list[list[Kernel]]]:
  name = kernels[0].name
  flushes = [index for index, kernel in enumerate(kernels) if kernel.name == name]
  if len(flushes) != 1 + calls * (1 + rounds):
    raise RuntimeError(
      f"the profile has {len(flushes)} launches of {name!r}, its first, for {1 + calls * (1 + rounds)} flushes: it "
      "can't be told what belongs to which call"
    )
  ends = [*flushes[1:], len(kernels)]
  alone, *parts = [list(kernels[begin + 1 : end]) for begin, end in zip(flushes, ends, strict=True)]
  copies, of_rounds = parts[:calls], parts[calls:]
  found: list[list[list[Kernel]]] = [[] for _ in range(calls)]
  for number, part in enumerate(of_rounds):
    copy = copies[number % calls]
    if alone or [kernel.name for kernel in part[: len(copy)]] != [kernel.name for kernel in copy]:
      raise RuntimeError(f"flush {name!r} or the copy after it launched other kernels than before: {part[:4]}")
    found[number % calls].append(part[len(copy) :])
  return found


def call_times(module: str, rounds: Sequence[Sequence[Kernel]], kernel: str = "") -> list[float]:
  """Seconds of each round's kernels, of those whose names begin with `kernel`, without copies.

  Raises:
    RuntimeError: a round has none.
  """
  counted = [[one for one in launched if one.name.startswith(kernel) and not one.copies] for launched in rounds]
  if not all(counted):
    names = sorted({one.name for launched in rounds for one in launched})
    raise RuntimeError(f"{module} launched no kernel that is named {kernel}...: {names}")
  return [1e-9 * sum(one.duration for one in launched) for launched in counted]
