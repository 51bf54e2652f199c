"""The ops of a decode step as calls to be timed: at a model's sizes, with random activations and recorded routing."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.kernels.recorded_loads import recorded_logits
from lynx_jax.models.released import RELEASED
from lynx_jax.testing.random_params import normal
from pallas_kernels import (
  QuantizedWeight,
  append_heads,
  decode_attention,
  expert_ffn,
  row_matmul,
  row_matmuls,
)
from pallas_kernels.expert_ffn import Tiles
from pallas_kernels.gates.forms import HELD, Held
from pallas_kernels.gates.shapes import ModelShape
from pallas_kernels.lynx_route import Lynx, Router, TopK, lynx_route_tiles
from pallas_kernels.weights.form import CODES


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
  """One op to time: its name, the case, a function that takes `implementation`, its inputs, the bytes it must move."""

  op: str
  what: str
  fn: Callable[..., Any]
  args: tuple[Any, ...]
  moved: int


OF_FEW_BITS = {"Qwen3-30B-A3B": tuple(HELD), "gpt-oss-20b": ("MXFP4",), "tiny": ("int4, groups of 32",)}
"""Forms of weights in which models' products are timed beside bfloat16, by the names of `HELD`."""
_Parts = tuple[str, str, Callable[..., Any], tuple, int]


def cases(shape: ModelShape, rows: int, capacity: int) -> Iterator[Case]:
  """Every op at a model's sizes, over a cache of `capacity` positions: random activations, recorded routing.

  Some models' products come with weights of few bits as well.
  """
  every = itertools.chain(_ops(shape, rows, capacity), _products(shape, rows), _of_few_bits(shape, rows))
  for op, what, fn, args, moved in every:
    yield Case(op=op, what=what, fn=fn, args=args, moved=moved)


def _bytes_of(*arrays: jax.Array) -> int:
  return sum(array.nbytes for array in arrays)


def _ops(shape: ModelShape, rows: int, capacity: int) -> Iterator[_Parts]:
  seeds = itertools.count()

  def draw(*sizes: int, dtype: Any = jnp.bfloat16, scale: float = 1.0) -> jax.Array:
    return normal(sizes, jnp.dtype(dtype), next(seeds), scale=scale)

  width, heads, groups = shape.width, shape.heads, shape.kv_heads
  x = draw(rows, width)
  weights = [draw(count * shape.head_dim, width, scale=width**-0.5) for count in (heads, groups, groups)]

  def project(x: jax.Array, scale: jax.Array, *weights: jax.Array, implementation: str | None) -> Any:
    return row_matmuls(x, weights, norm_scale=scale, norm_eps=1e-6, implementation=implementation)

  yield "row_matmuls", f"T={rows}, query, key, value", project, (x, draw(width), *weights), _bytes_of(x, *weights)

  cache = [draw(rows, groups, capacity, shape.head_dim) for _ in range(2)]
  positions = jnp.full((rows,), capacity - 1, jnp.int32)
  query, key, value = (draw(rows, count * shape.head_dim) for count in (heads, groups, groups))
  turn = draw(rows, shape.head_dim // 2, dtype=jnp.float32)
  moved = 2 * _bytes_of(query, key, value)
  # The caches are not donated here, so each call copies them; few positions keep the copy small.
  short = [part[:, :, :16] for part in cache]
  at = jnp.full((rows,), 15, jnp.int32)
  yield "append_heads", f"T={rows}", append_heads, (query, key, value, *short, at, turn, turn), moved
  by_head = query.reshape(rows, heads, shape.head_dim)
  yield "decode_attention", f"T={rows}, C={capacity}", decode_attention, (by_head, *cache, positions), _bytes_of(*cache)

  logits = jnp.asarray(recorded_logits(rows, shape.experts, shape.top_k))
  gate_up = draw(shape.experts, 2 * shape.expert_width, width, scale=width**-0.5)
  down = draw(shape.experts, width, shape.expert_width, scale=shape.expert_width**-0.5)
  router = Router(renormalize=shape.renormalize)
  for name, policy in (("top-k", TopK()), ("Lynx(3, 2)", Lynx(3, 2))):
    options = {"top_k": shape.top_k, "policy": policy, "router": router}
    yield "lynx_route", f"T={rows}, {name}", functools.partial(_route, **options), (logits,), _bytes_of(logits)
    chosen = lynx_route_tiles(logits, **options)
    live = int(chosen.active.sum())
    moved = live * (gate_up.nbytes + down.nbytes) // shape.experts
    args = (x, chosen.ids, chosen.weights, gate_up, down, chosen.tiles)
    yield "expert_ffn", f"T={rows}, {live} experts live ({name})", _experts, args, moved


def _products(shape: ModelShape, rows: int) -> Iterator[_Parts]:
  """The products of the router, after attention, and of the head."""
  width, inner = shape.width, shape.heads * shape.head_dim
  vocab = RELEASED[shape.name]["vocab_size"] if shape.name in RELEASED else 256
  x, scale, mixed = (normal(sizes, jnp.dtype(jnp.bfloat16), 32) for sizes in ((rows, width), (width,), (rows, inner)))

  def weight(outer: int, inner: int) -> jax.Array:
    return normal((outer, inner), x.dtype, 33, scale=inner**-0.5)

  def normed(x: jax.Array, weight: jax.Array, scale: jax.Array, *, implementation: str | None) -> jax.Array:
    options = {"norm_scale": scale, "norm_eps": 1e-6, "dtype": "float32"}
    return row_matmul(x, weight, implementation=implementation, **options)

  def added(mixed: jax.Array, weight: jax.Array, x: jax.Array, *, implementation: str | None) -> jax.Array:
    return row_matmul(mixed, weight, residual_TO=x, implementation=implementation)

  for what, fn, args in (
    (f"router of {shape.experts}", normed, (x, weight(shape.experts, width), scale)),
    ("after attention", added, (mixed, weight(width, inner), x)),
    (f"head of {vocab}", normed, (x, weight(vocab, width), scale)),
  ):
    yield "row_matmul", f"T={rows}, {what}", fn, args, args[1].nbytes


def _of_few_bits(shape: ModelShape, rows: int) -> Iterator[_Parts]:
  """Experts, and the projection after attention, with weights of few bits."""
  width, inner, stacks = shape.width, shape.heads * shape.head_dim, (shape.experts, 2 * shape.expert_width, shape.width)
  x, mixed = (normal(sizes, jnp.dtype(jnp.bfloat16), 64) for sizes in ((rows, width), (rows, inner)))
  logits = jnp.asarray(recorded_logits(rows, shape.experts, shape.top_k))

  def added(mixed: jax.Array, weight: QuantizedWeight, x: jax.Array, *, implementation: str | None) -> jax.Array:
    return row_matmul(mixed, weight, residual_TO=x, implementation=implementation)

  for name in OF_FEW_BITS.get(shape.name, ()):
    chosen = lynx_route_tiles(logits, top_k=shape.top_k, policy=TopK(), router=Router(renormalize=shape.renormalize))
    live, held = int(chosen.active.sum()), HELD[name]
    gate_up, down = random_weight(held, *stacks), random_weight(held, shape.experts, width, shape.expert_width)
    args = (x, chosen.ids, chosen.weights, gate_up, down, chosen.tiles)
    moved = live * (gate_up.nbytes + down.nbytes) // shape.experts
    yield "expert_ffn", f"T={rows}, {live} experts live (top-k), {name}", _experts, args, moved
    weight = random_weight(held, width, inner)
    yield "row_matmul", f"T={rows}, after attention, {name}", added, (mixed, weight, x), weight.nbytes


def random_weight(held: Held, *shape: int) -> QuantizedWeight:
  """A weight of that shape with random numbers, and one scale for all that keeps products of order 1."""
  weight, form = held.abstract(*shape), held.form
  words = jax.random.bits(jax.random.key(0), weight.values.shape, jnp.uint16)
  # Without the highest bit of its exponent no number of e4m3 is NaN.
  words = words & jnp.uint16(0xBFBF) if form.code == "e4m3" else words
  scale = 2.0 ** -round(math.log2(CODES[form.code].largest * shape[-1] ** 0.5 / 2))
  return dataclasses.replace(
    weight,
    values=words,
    scales=jnp.full(weight.scales.shape, scale, weight.scales.dtype),
    zeros=None if weight.zeros is None else jnp.full(weight.zeros.shape, 7, weight.zeros.dtype),
  )


def _route(logits: jax.Array, *, implementation: str | None, **options: Any) -> Any:
  chosen = lynx_route_tiles(logits, implementation=implementation, **options)
  return chosen.weights, chosen.ids, None if chosen.tiles is None else chosen.tiles.in_use


def _experts(
  x: jax.Array, ids: jax.Array, weights: jax.Array, gate_up: jax.Array, down: jax.Array, tiles: Tiles,
  *, implementation: str | None,
) -> jax.Array:  # fmt: skip
  return expert_ffn(x, ids, weights, gate_up, down, tiles=tiles, implementation=implementation)
