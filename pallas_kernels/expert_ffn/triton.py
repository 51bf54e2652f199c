"""`expert_ffn` on NVIDIA GPUs: two kernels over (tile of an expert's rows, block of columns).

The grid covers the most tiles that any routing can need. A program past the tiles in use returns at once, without
reading weights. Memory bounds these products, so rows are the 16-wide side of a tensor-core tile and weights stream
past them. Each program sums over the whole inner axis: so no two programs write one place, and sums have one order.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.activations import Activation
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.expert_ffn.blocks import choose_blocks, tile_rows_for
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.gpu.blocks import Blocks
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.gpu.weight_products import form_objection, load_rows, products, readable
from pallas_kernels.weights.base import Weight, form_of


def objection(arrays: ExpertArrays, *, options: ExpertOptions) -> str | None:
  """Says why the kernels cannot take these arguments, or None."""
  for stack in (arrays.gate_up, arrays.down):
    if (found := form_objection(stack, arrays.x.dtype)) is not None:
      return found
    if form_of(stack) is None and stack.dtype != arrays.x.dtype:
      return f"rows and weights must have one dtype, not {arrays.x.dtype.name} and {stack.dtype.name}"
  return None


def expert_ffn_triton(arrays: ExpertArrays, *, options: ExpertOptions) -> jax.Array:
  """`expert_ffn` in two launches after `tiles`, and a sum that XLA fuses with what follows."""
  x, ids, valid, tiles = arrays.x, arrays.ids, arrays.valid, arrays.tiles
  gate_up, down = readable(arrays.gate_up), readable(arrays.down)
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


class _Given(NamedTuple):
  """What both kernels read: arrays of a launch, and refs inside a kernel."""

  in_use: Any
  expert: Any
  slot: Any
  x: Any
  weight: Any
  bias: Any


def _run(kernel, x, weight: Weight, bias, tiles: Tiles, out_shape, *, name: str, parts: int, top_k: int) -> jax.Array:
  """Launches a kernel over (tile, block of columns); a column of the result needs `parts` outputs of the weight."""
  columns = out_shape.shape[1]
  blocks = choose_blocks(name, tiles.slot.shape[1], columns, weight.shape[2], top_k, parts, form_of(weight))
  given = _Given(tiles.in_use.reshape(1), tiles.expert, tiles.slot, x, weight, bias)
  arrays, tree = jax.tree.flatten(given)
  kernel = functools.partial(kernel, tree=tree, blocks=blocks, top_k=top_k)
  return call(
    functools.partial(kernel, compiled=True),
    *arrays,
    grid=(tiles.expert.shape[0], pl.cdiv(columns, blocks.columns)),
    out_shape=out_shape,
    name=name,
    num_warps=blocks.warps,
    num_stages=blocks.stages,
    interpreted=functools.partial(kernel, compiled=False),
  )


def _hidden_kernel(*refs, tree, blocks: Blocks, top_k: int, activation: Activation, compiled: bool):
  """activation(gate @ x, up @ x), each with its bias, for one tile and one block of F."""
  tile, block = pl.program_id(0), pl.program_id(1)
  given, hidden_ref = _Given(*tree.unflatten(refs[:-1])), refs[-1]

  @pl.when(tile < given.in_use[0])
  def run():
    slot, column, expert = _slots(given.slot, tile), _columns(block, blocks), given.expert[tile]
    columns = hidden_ref.shape[1]
    gate, up = _products(given, slot // top_k, expert, column, columns, blocks, parts=2, compiled=compiled)
    if given.bias is not None:
      gate += _bias(given.bias, expert, column, columns)
      up += _bias(given.bias, expert, column, columns, 1)
    _store(hidden_ref, slot, column, activation(gate, up).astype(hidden_ref.dtype))


def _down_kernel(*refs, tree, blocks: Blocks, top_k: int, compiled: bool):
  """Down @ hidden, with its bias, for one tile and one block of D."""
  tile, block = pl.program_id(0), pl.program_id(1)
  given, y_ref = _Given(*tree.unflatten(refs[:-1])), refs[-1]

  @pl.when(tile < given.in_use[0])
  def run():
    slot, column, expert = _slots(given.slot, tile), _columns(block, blocks), given.expert[tile]
    (y,) = _products(given, slot, expert, column, y_ref.shape[1], blocks, parts=1, compiled=compiled)
    if given.bias is not None:
      y += _bias(given.bias, expert, column, y_ref.shape[1])
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
  given: _Given, row: jax.Array, expert: jax.Array, column: jax.Array, columns: int, blocks: Blocks, *, parts: int,
  compiled: bool,
) -> tuple[jax.Array, ...]:  # fmt: skip
  """x[row] @ weight[expert, column + part * columns].T for each part, in float32."""
  # Rows and columns past the last read the last again. Their results are not stored.
  row_in = jnp.minimum(row, given.x.shape[0] - 1)
  # Where nothing is clamped Triton sees what lies together. Words of tiles gain by it; plain weights are then loaded
  # otherwise, and registers spill (OLMoE's `expert_down`, H100).
  whole = form_of(given.weight) is not None and columns % blocks.columns == 0
  column_in = column if whole else jnp.minimum(column, columns - 1)
  outs = [column_in + part * columns for part in range(parts)]
  load = functools.partial(load_rows, given.x, row_in, blocks=blocks)
  weight, count = given.weight, row.shape[0]
  return products(lambda at, kept: (load(at), kept), count, weight, (expert,), outs, blocks, compiled=compiled)[0]
