"""Time of each op on this machine, beside the time that reading its bytes would take."""

import dataclasses
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels import append_heads, decode_attention, expert_ffn, grouped_matmul, row_matmuls, select_experts
from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.select_experts import AffinityBins, OwnExperts, Router


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpTime:
  """One op at one size.

  Attributes:
    op: its name.
    model: whose sizes.
    case: rows and what else matters.
    us: median time of a call inside a compiled loop, in microseconds.
    roofline_us: bytes that must be read or written over the measured bandwidth.
    error: largest difference from the reference, over the reference's largest magnitude.
  """

  op: str
  model: str
  case: str
  us: float
  roofline_us: float
  error: float


def copy_bandwidth(megabytes: int = 1024, repeats: int = 20) -> float:
  """Bytes a second of an elementwise pass over device memory, reading and writing."""
  x = jnp.zeros((megabytes * 2**18,), jnp.float32)
  step = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = step(x).block_until_ready()
  times = []
  for _ in range(repeats):
    begin = time.perf_counter()
    x = step(x).block_until_ready()
    times.append(time.perf_counter() - begin)
  return 2 * x.nbytes / statistics.median(times)


def op_times(shape: ModelShape, bandwidth: float, *, rows: int = 16, capacity: int = 1024) -> Iterator[OpTime]:
  """Every op of a decode step of `rows` rows, and a prefill's grouped product, with random inputs.

  All are compiled side by side before the first is timed.
  """
  every = list(cases(shape, rows, capacity))
  with ThreadPoolExecutor(os.cpu_count()) as threads:
    prepared = list(threads.map(_prepared, every))
  for case, (best, reference, timed) in zip(every, prepared, strict=True):
    yield OpTime(
      op=case.op,
      model=shape.name,
      case=case.what,
      us=1e6 * timed.seconds(),
      roofline_us=1e6 * case.moved / bandwidth,
      error=_difference(best(*case.args), reference(*case.args)),
    )


def _prepared(case: "Case") -> tuple[Any, Any, "Timed"]:
  """The op's best implementation and its reference, compiled, and loops that time the former."""
  best = functools.partial(case.fn, implementation=None)
  reference = functools.partial(case.fn, implementation="reference")
  one, other = (jax.jit(fn).lower(*case.args).compile() for fn in (best, reference))
  return one, other, Timed(best, case.args)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
  """An op to time: its name, what of it, a function that takes `implementation`, inputs, bytes it must move."""

  op: str
  what: str
  fn: Callable[..., Any]
  args: tuple[Any, ...]
  moved: int


def cases(shape: ModelShape, rows: int, capacity: int) -> Iterator[Case]:
  """Every op at a model's sizes, with random inputs."""
  for op, what, fn, args, moved in _cases(shape, rows, capacity):
    yield Case(op=op, what=what, fn=fn, args=args, moved=moved)


def _cases(shape: ModelShape, rows: int, capacity: int) -> Iterator[tuple[str, str, Callable[..., Any], tuple, int]]:
  keys = iter(jax.random.split(jax.random.key(0), 32))

  def draw(*sizes: int, dtype: Any = jnp.bfloat16, scale: float = 1.0) -> jax.Array:
    return scale * jax.random.normal(next(keys), sizes, dtype)

  def bytes_of(*arrays: jax.Array) -> int:
    return sum(array.nbytes for array in arrays)

  width, heads, groups = shape.width, shape.heads, shape.kv_heads
  x = draw(rows, width)
  weights = [draw(count * shape.head_dim, width, scale=width**-0.5) for count in (heads, groups, groups)]

  def project(x: jax.Array, scale: jax.Array, *weights: jax.Array, implementation: str | None) -> Any:
    return row_matmuls(x, weights, norm_scale=scale, norm_eps=1e-6, implementation=implementation)

  yield "row_matmuls", f"T={rows}, query, key, value", project, (x, draw(width), *weights), bytes_of(x, *weights)

  cache = [draw(rows, groups, capacity, shape.head_dim) for _ in range(2)]
  positions = jnp.full((rows,), capacity - 1, jnp.int32)
  query, key, value = (draw(rows, count * shape.head_dim) for count in (heads, groups, groups))
  turn = draw(rows, shape.head_dim // 2, dtype=jnp.float32)
  moved = 2 * bytes_of(query, key, value)
  # Nothing gives these caches away, so each call copies them: few positions keep that small.
  short = [part[:, :, :16] for part in cache]
  at = jnp.full((rows,), 15, jnp.int32)
  yield "append_heads", f"T={rows}", append_heads, (query, key, value, *short, at, turn, turn), moved
  by_head = query.reshape(rows, heads, shape.head_dim)
  yield "decode_attention", f"T={rows}, C={capacity}", decode_attention, (by_head, *cache, positions), bytes_of(*cache)

  logits = 2 * draw(rows, shape.experts, dtype=jnp.float32)
  gate_up = draw(shape.experts, 2 * shape.expert_width, width, scale=width**-0.5)
  down = draw(shape.experts, width, shape.expert_width, scale=shape.expert_width**-0.5)
  router = Router(renormalize=shape.renormalize)
  for name, rule in (("top-k", OwnExperts()), ("Lynx(3, 2)", AffinityBins(3.0, 2))):
    route = functools.partial(_route, top_k=shape.top_k, rule=rule, router=router)
    yield "select_experts", f"T={rows}, {name}", route, (logits,), bytes_of(logits)
    chosen = select_experts(logits, shape.top_k, rule=rule, router=router)
    live = int(chosen.active.sum())
    experts = functools.partial(_experts, tiles=chosen.tiles)
    moved = live * (gate_up[0].nbytes + down[0].nbytes)
    args = (x, chosen.ids, chosen.weights, gate_up, down)
    yield "expert_ffn", f"T={rows}, {live} experts live ({name})", experts, args, moved

  many = 256 * shape.top_k
  sizes = np.random.default_rng(0).multinomial(many, np.full(shape.experts, 1 / shape.experts)).astype(np.int32)
  sorted_x = draw(many, width)
  moved = bytes_of(sorted_x, gate_up) + many * 2 * gate_up.shape[1]
  yield "grouped_matmul", f"S={many}", grouped_matmul, (sorted_x, gate_up, jnp.asarray(sizes)), moved


def _route(logits: jax.Array, *, implementation: str | None, **options: Any) -> Any:
  chosen = select_experts(logits, implementation=implementation, **options)
  return chosen.weights, chosen.ids, chosen.tiles.in_use


def _experts(x: jax.Array, *args: jax.Array, tiles: Any, implementation: str | None) -> Any:
  return expert_ffn(x, *args, tiles=tiles, implementation=implementation)


class Timed:
  """Loops of calls of `fn` with `args`, compiled on construction, in which a call is timed among many."""

  def __init__(self, fn: Callable[..., Any], args: tuple, rounds: int = 50):
    self._args, self._rounds = args, rounds
    self._calls, self._nothing = (self._loop(one) for one in (fn, lambda *args: args[0]))

  def _loop(self, call: Callable[..., Any]) -> jax.stages.Compiled:
    def loop(first: jax.Array, *rest: jax.Array) -> jax.Array:
      def body(_: jax.Array, carry: jax.Array) -> jax.Array:
        # Zero, but the compiler cannot know: rounds depend on each other and are not hoisted out of the loop.
        result = jax.tree.leaves(call(first + carry.astype(first.dtype), *rest))[0]
        return jnp.minimum(jnp.abs(result.reshape(-1)[0].astype(jnp.float32)), 0.0)

      return jax.lax.fori_loop(0, self._rounds, body, jnp.zeros((), jnp.float32))

    return jax.jit(loop).lower(*self._args).compile()

  def seconds(self, repeats: int = 7) -> float:
    """Median time of a call, less that of the loop's own work."""
    return max(0.0, self._median(self._calls, repeats) - self._median(self._nothing, repeats))

  def _median(self, loop: jax.stages.Compiled, repeats: int) -> float:
    loop(*self._args).block_until_ready()
    times = []
    for _ in range(repeats):
      begin = time.perf_counter()
      loop(*self._args).block_until_ready()
      times.append(time.perf_counter() - begin)
    return statistics.median(times) / self._rounds


def _difference(got: Any, want: Any) -> float:
  """Largest difference of any result, over the largest magnitude of its kind."""
  worst = 0.0
  for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    one, other = (np.asarray(a, np.float64) for a in (one, other))
    worst = max(worst, float(np.max(np.abs(one - other)) / max(np.max(np.abs(other)), 1e-30)))
  return worst
