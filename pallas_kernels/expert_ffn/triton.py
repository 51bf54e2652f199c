"""`expert_ffn` on NVIDIA GPUs: two kernels over (tile of an expert's rows, block of columns).

The grid covers the most tiles that any routing can need. A program past the tiles in use returns at once, without
reading weights. Memory bounds these products, so rows are the 16-wide side of a tensor-core tile and weights stream
past them. Each program sums over the whole inner axis: so no two programs write one place, and sums have one order.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.activations import Activation
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.expert_ffn.blocks import choose_blocks, tile_rows_for
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.gpu.blocks import Blocks
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.weights.bfloat16 import from_bits


def objection(arrays: ExpertArrays, *, options: ExpertOptions) -> str | None:
  """Says why the kernels cannot take these arguments, or None."""
  for stack in (arrays.gate_up, arrays.down):
    if stack.dtype != arrays.x.dtype:
      return f"rows and weights must have one dtype, not {arrays.x.dtype.name} and {stack.dtype.name}"
  return None


def expert_ffn_triton(arrays: ExpertArrays, *, options: ExpertOptions) -> jax.Array:
  """`expert_ffn` in two launches after `tiles`, and a sum that XLA fuses with what follows."""
  # Each weight is one array: its numbers, or their bits.
  (gate_up,), (down,) = jax.tree.leaves(arrays.gate_up), jax.tree.leaves(arrays.down)
  x, ids, valid, tiles = arrays.x, arrays.ids, arrays.valid, arrays.tiles
  (rows, width), (top_k, experts, expert_width) = x.shape, (ids.shape[1], gate_up.shape[0], down.shape[2])
  if tiles is None:
    tiles = tile_rows(ids, valid, experts, tile_rows_for(rows, top_k, experts))
  kernel = functools.partial(_hidden_kernel, activation=options.activation)
  hidden = jax.ShapeDtypeStruct((rows * top_k, expert_width), x.dtype)
  hidden_SF = _run(kernel, x, gate_up, arrays.gate_up_bias, tiles, hidden, name="expert_hidden", parts=2, top_k=top_k)
  y = jax.ShapeDtypeStruct((rows * top_k, width), jnp.float32)
  y_SD = _run(_down_kernel, hidden_SF, down, arrays.down_bias, tiles, y, name="expert_down", parts=1, top_k=top_k)
  # Rows that no program wrote are uninitialised: select them away, multiplying by 0 would keep NaN.
  share = jnp.where(valid[:, None], arrays.weights, 0.0)[:, :, None]
  y_TKD = jnp.where(valid[:, None, None], y_SD.reshape(rows, top_k, width), 0.0)
  return (y_TKD * share).sum(axis=1).astype(x.dtype)


def _run(kernel, x, weights, bias, tiles: Tiles, out_shape, *, name: str, parts: int, top_k: int) -> jax.Array:
  """Launches a kernel over (tile, block of columns); a column of the result needs `parts` rows of weights."""
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
  # Rows and columns past the last read the last again. Their results are not stored.
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
