"""Experts on NVIDIA GPUs: two kernels over (tile of an expert's rows, block of columns).

The grid covers the most tiles that any routing can need; a program past those in use returns at once, and no other
reads weights. Products are bound by memory, so rows are the 16-wide side of a tensor-core tile and weights stream
past them; each program walks the whole summed axis, so that no two write one place and sums have one order.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.activations import SWIGLU, Activation
from pallas_kernels.expert_ffn.blocks import choose_blocks, tile_rows_for
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.gpu.blocks import Blocks
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.weights.base import Weight, held_as
from pallas_kernels.weights.bfloat16 import from_bits

# A plain array, or bits that the kernel reads as bfloat16.
_KINDS = (None, "bfloat16 bits")


def objection(
  x, weights, gate_up, down, ids, valid, tiles, gate_up_bias=None, down_bias=None, *, activation=None
) -> str | None:
  """Why the kernels cannot take these arguments, or None."""
  for stack in (gate_up, down):
    if held_as(stack) not in _KINDS:
      return f"{held_as(stack)} weights are not for the GPU kernels yet: plain JAX takes them"
    if stack.dtype != x.dtype:
      return f"rows and weights must have one dtype, not {x.dtype.name} and {stack.dtype.name}"
  return None


def expert_ffn_triton(
  x: jax.Array,
  weights: jax.Array,
  gate_up: Weight,
  down: Weight,
  ids: jax.Array,
  valid: jax.Array,
  tiles: Tiles | None,
  gate_up_bias: jax.Array | None = None,
  down_bias: jax.Array | None = None,
  *,
  activation: Activation = SWIGLU,
) -> jax.Array:
  """`expert_ffn` in two launches after `tiles`, and a sum that XLA fuses with what follows."""
  # Each is one array: the numbers themselves, or their bits.
  (gate_up,), (down,) = jax.tree.leaves(gate_up), jax.tree.leaves(down)
  rows, width = x.shape
  top_k, experts, expert_width = ids.shape[1], gate_up.shape[0], down.shape[2]
  if tiles is None:
    tiles = tile_rows(ids, valid, experts, tile_rows_for(rows, top_k, experts))
  kernel = functools.partial(_hidden_kernel, activation=activation)
  hidden = jax.ShapeDtypeStruct((rows * top_k, expert_width), x.dtype)
  hidden_SF = _run(kernel, x, gate_up, gate_up_bias, tiles, hidden, name="expert_hidden", parts=2, top_k=top_k)
  y = jax.ShapeDtypeStruct((rows * top_k, width), jnp.float32)
  y_SD = _run(_down_kernel, hidden_SF, down, down_bias, tiles, y, name="expert_down", parts=1, top_k=top_k)
  # What no program wrote may hold anything.
  share = jnp.where(valid[:, None], weights, 0.0)[:, :, None]
  y_TKD = jnp.where(valid[:, None, None], y_SD.reshape(rows, top_k, width), 0.0)
  return (y_TKD * share).sum(axis=1).astype(x.dtype)


def matmul_tiles(x: jax.Array, weights: jax.Array, tiles: Tiles, *, name: str) -> jax.Array:
  """x[slot] @ weights[expert].T in float32 for the rows of every tile; rows that are in none may hold anything."""
  y = jax.ShapeDtypeStruct((x.shape[0], weights.shape[1]), jnp.float32)
  return _run(_down_kernel, x, weights, None, tiles, y, name=name, parts=1, top_k=1)


def _run(kernel, x, weights, bias, tiles: Tiles, out_shape, *, name: str, parts: int, top_k: int) -> jax.Array:
  """Runs a kernel over (tile, block of columns); a column of the result takes `parts` rows of weights."""
  columns = out_shape.shape[1]
  blocks = choose_blocks(name, tiles.slot.shape[1], columns, weights.shape[2], top_k, parts)
  return call(
    functools.partial(kernel, blocks=blocks, top_k=top_k),
    tiles.in_use.reshape(1),
    tiles.expert,
    tiles.slot,
    x,
    weights,
    *(() if bias is None else (bias,)),
    grid=(tiles.expert.shape[0], pl.cdiv(columns, blocks.columns)),
    out_shape=out_shape,
    name=name,
    num_warps=blocks.warps,
    num_stages=blocks.stages,
  )


def _hidden_kernel(
  in_use_ref, expert_ref, slot_ref, x_ref, gate_up_ref, *refs, blocks: Blocks, top_k: int, activation: Activation
):
  """activation(gate @ x, up @ x), each with its bias, for one tile and one block of F."""
  tile, block = pl.program_id(0), pl.program_id(1)
  *bias_refs, hidden_ref = refs

  @pl.when(tile < in_use_ref[0])
  def run():
    slot, column, expert = _slots(slot_ref, tile), _columns(block, blocks), expert_ref[tile]
    columns = hidden_ref.shape[1]
    gate, up = _products(x_ref, slot // top_k, gate_up_ref, expert, column, columns, blocks, parts=2)
    for bias_ref in bias_refs:
      gate, up = gate + _bias(bias_ref, expert, column, columns), up + _bias(bias_ref, expert, column, columns, 1)
    _store(hidden_ref, slot, column, activation(gate, up).astype(hidden_ref.dtype))


def _down_kernel(in_use_ref, expert_ref, slot_ref, hidden_ref, down_ref, *refs, blocks: Blocks, top_k: int):
  """Down @ hidden, with its bias, for one tile and one block of D."""
  tile, block = pl.program_id(0), pl.program_id(1)
  *bias_refs, y_ref = refs

  @pl.when(tile < in_use_ref[0])
  def run():
    slot, column, expert = _slots(slot_ref, tile), _columns(block, blocks), expert_ref[tile]
    (y,) = _products(hidden_ref, slot, down_ref, expert, column, y_ref.shape[1], blocks, parts=1)
    for bias_ref in bias_refs:
      y += _bias(bias_ref, expert, column, y_ref.shape[1])
    _store(y_ref, slot, column, y)


def _bias(bias_ref, expert: jax.Array, column: jax.Array, columns: int, part: int = 0) -> jax.Array:
  """Part `part` of an expert's bias, as a row; columns past the last repeat it."""
  place = jnp.minimum(column, columns - 1) + part * columns
  return plgpu.load(bias_ref.at[expert, place]).astype(jnp.float32)[None, :]


def _slots(slot_ref, tile: jax.Array) -> jax.Array:
  """The assignments of a tile; those past the last mark unused places."""
  return plgpu.load(slot_ref.at[tile, jnp.arange(slot_ref.shape[1])])


def _columns(block: jax.Array, blocks: Blocks) -> jax.Array:
  return block * blocks.columns + jnp.arange(blocks.columns)


def _store(ref, slot: jax.Array, column: jax.Array, value: jax.Array) -> None:
  mask = (slot < ref.shape[0])[:, None] & (column < ref.shape[1])[None, :]
  plgpu.store(ref.at[slot[:, None], column[None, :]], value, mask=mask)


def _products(
  x_ref, row: jax.Array, weight_ref, expert: jax.Array, column: jax.Array, columns: int, blocks: Blocks, parts: int
) -> tuple[jax.Array, ...]:
  """x[row] @ weight[expert, column + part * columns].T for each part, in float32."""
  inner = x_ref.shape[1]
  even = inner % blocks.inner == 0
  # Rows and columns past the last read the last again: what they give is not stored.
  row_in, column_in = jnp.minimum(row, x_ref.shape[0] - 1), jnp.minimum(column, columns - 1)
  precision = jax.lax.Precision.HIGHEST if x_ref.dtype == jnp.float32 else None

  def step(index, totals):
    at = index * blocks.inner + jnp.arange(blocks.inner)
    at_in = at if even else jnp.minimum(at, inner - 1)
    x = plgpu.load(x_ref.at[row_in[:, None], at_in[None, :]])
    if not even:
      x = jnp.where((at < inner)[None, :], x, jnp.zeros_like(x))
    added = []
    for part in range(parts):
      weight = from_bits(plgpu.load(weight_ref.at[expert, (column_in + part * columns)[:, None], at_in[None, :]]))
      if not even:
        weight = jnp.where((at < inner)[None, :], weight, jnp.zeros_like(weight))
      added.append(jnp.dot(x, weight.T, precision=precision, preferred_element_type=jnp.float32))
    return tuple(total + product for total, product in zip(totals, added, strict=True))

  zero = jnp.zeros((row.shape[0], blocks.columns), jnp.float32)
  return jax.lax.fori_loop(0, pl.cdiv(inner, blocks.inner), step, (zero,) * parts)
