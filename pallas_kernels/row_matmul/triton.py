"""`row_matmul` on NVIDIA GPUs: each program reads the weights of some columns once, and multiplies all rows by them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.blocks import Blocks, choose, dividing_step
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions

MOST_ROWS = 64
# A product's tile has at least 16 rows and columns on tensor cores.
_LEAST = 16


def choose_blocks(rows: int, columns: int, inner: int, *, normed_before: bool = False) -> Blocks:
  """The widest column block that still gives each of an H100's 132 multiprocessors a program.

  Rows that are normed before the product take another step's rows of shared memory, for what the product reads. Then
  fewer loads are in flight, so that two blocks of 16 rows still fit a multiprocessor of an A100.
  """
  rows = max(_LEAST, pl.next_power_of_2(rows))

  def rule() -> Blocks:
    block = 64
    while block > _LEAST and columns < 128 * block:
      block //= 2
    # Every warp reads all of `x` for its step, so fewer warps read less. A step of at least 64 numbers a warp gives
    # each lane 4 bytes of the norm's scale, and asynchronous loads are at least 4 bytes wide.
    steps = dividing_step(inner, 256)
    warps, in_step = min(4, max(2, rows * block // 256)), 2 * steps * (rows * (1 + normed_before) + block)
    return Blocks(columns=block, inner=steps, warps=warps, stages=4 if in_step <= 24 * 1024 else 3)

  return choose("row_matmul", (rows, columns, inner), rule)


def objection(arrays: RowArrays, *, options: RowOptions) -> str | None:
  """Says why the kernel cannot take these arguments, or None."""
  x = arrays.x
  if x.shape[0] > MOST_ROWS:
    return f"it takes at most {MOST_ROWS} rows, not {x.shape[0]}"
  if x.dtype not in (jnp.bfloat16, jnp.float16):
    return f"it takes bfloat16 or float16, not {x.dtype.name}"
  if x.shape[1] % _LEAST:
    return f"it takes rows of a multiple of {_LEAST} values, not {x.shape[1]}"
  return None


def row_matmul_triton(arrays: RowArrays, *, options: RowOptions) -> tuple[jax.Array, ...]:
  """`row_matmul` with each weight, in one launch."""
  rows, inner = arrays.x.shape
  widths = [weight.shape[0] for weight in arrays.weights]
  blocks = choose_blocks(rows, sum(widths), inner, normed_before=_normed_before(arrays.x, arrays.norm_scale))
  inputs = {"x": arrays.x, "norm_scale": arrays.norm_scale, "residual": arrays.residual}
  inputs |= {f"weight{index}": weight for index, weight in enumerate(arrays.weights)}
  inputs |= {f"bias{index}": bias for index, bias in enumerate(arrays.biases)}
  given = {name: array for name, array in inputs.items() if array is not None}
  return tuple(
    call(
      functools.partial(_kernel, names=tuple(given), norm_eps=options.norm_eps, blocks=blocks),
      *given.values(),
      grid=(sum(pl.cdiv(width, blocks.columns) for width in widths),),
      out_shape=[jax.ShapeDtypeStruct((rows, width), jnp.dtype(options.dtype)) for width in widths],
      name="row_matmul",
      num_warps=blocks.warps,
      num_stages=blocks.stages,
    )
  )


def _normed_before(x: Any, norm_scale: Any) -> bool:
  """Whether rows are divided by their root mean square before the product, so that `x` is read twice.

  float16 rows times the norm's scale may pass 65504, the largest float16. bfloat16 rows are divided after the product.
  """
  return norm_scale is not None and x.dtype == jnp.float16


def _kernel(*refs, names: tuple[str, ...], norm_eps: float, blocks: Blocks):
  given, y_refs = dict(zip(names, refs, strict=False)), refs[len(names) :]
  first = 0
  for index, y_ref in enumerate(y_refs):
    block, last = pl.program_id(0) - first, first + pl.cdiv(y_ref.shape[1], blocks.columns)

    @pl.when((pl.program_id(0) >= first) & (pl.program_id(0) < last))
    def run(index=index, block=block, y_ref=y_ref):
      part = {"weight": given[f"weight{index}"], "bias": given.get(f"bias{index}")}
      _block(given | part, y_ref, block, norm_eps, blocks)

    first = last


def _block(given: dict, y_ref, block: jax.Array, norm_eps: float, blocks: Blocks) -> None:
  """Computes block number `block` of the columns of one result."""
  x_ref, weight_ref, norm_ref = given["x"], given["weight"], given.get("norm_scale")
  (rows, inner), columns = x_ref.shape, weight_ref.shape[0]
  row_block = max(_LEAST, pl.next_power_of_2(rows))
  row, column = jnp.arange(row_block), block * blocks.columns + jnp.arange(blocks.columns)
  # Rows and columns past the last read the last again. Their results are not stored.
  row_in, column_in = jnp.minimum(row, rows - 1), jnp.minimum(column, columns - 1)
  load = functools.partial(_load_x, x_ref, row_in, blocks)
  steps, no_squares = pl.cdiv(inner, blocks.inner), jnp.zeros((row_block, row_block), jnp.float32)

  def inverse(squares: jax.Array) -> jax.Array:
    mean = jnp.sum(jnp.where(row[:, None] == row[None, :], squares, 0.0), axis=1) / inner
    return jax.lax.rsqrt(mean + norm_eps)[:, None]

  before = None
  if _normed_before(x_ref, norm_ref):
    before = inverse(jax.lax.fori_loop(0, steps, lambda at, squares: squares + _gram(load(at)[0]), no_squares))

  def step(index, carry):
    total, squares = carry
    x, at_in = load(index)
    if norm_ref is not None and before is not None:
      scale = plgpu.load(norm_ref.at[at_in]).astype(jnp.float32)
      x = (x.astype(jnp.float32) * before * scale[None, :]).astype(x.dtype)
    elif norm_ref is not None:
      squares += _gram(x)
      x *= plgpu.load(norm_ref.at[at_in])[None, :]
    weight = plgpu.load(weight_ref.at[column_in[:, None], at_in[None, :]])
    return total + jnp.dot(x, weight.T, preferred_element_type=jnp.float32), squares

  y, squares = jax.lax.fori_loop(0, steps, step, (jnp.zeros((row_block, blocks.columns), jnp.float32), no_squares))
  if norm_ref is not None and before is None:
    y *= inverse(squares)
  if given["bias"] is not None:
    y += plgpu.load(given["bias"].at[column_in]).astype(jnp.float32)[None, :]
  if "residual" in given:
    y += plgpu.load(given["residual"].at[row_in[:, None], column_in[None, :]]).astype(jnp.float32)
  mask = (row < rows)[:, None] & (column < columns)[None, :]
  plgpu.store(y_ref.at[row[:, None], column[None, :]], y.astype(y_ref.dtype), mask=mask)


def _load_x(x_ref, row_in: jax.Array, blocks: Blocks, index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Loads step `index` of the rows, zeros past their end, and the places it was loaded from."""
  inner = x_ref.shape[1]
  at = index * blocks.inner + jnp.arange(blocks.inner)
  if inner % blocks.inner == 0:
    return plgpu.load(x_ref.at[row_in[:, None], at[None, :]]), at
  at_in = jnp.minimum(at, inner - 1)
  x = plgpu.load(x_ref.at[row_in[:, None], at_in[None, :]])
  return jnp.where((at < inner)[None, :], x, jnp.zeros_like(x)), at_in


def _gram(x: jax.Array) -> jax.Array:
  """Products of all pairs of rows. The diagonal holds the sums of squares.

  Tensor cores compute it, because they take `x` in the layout of its other uses. A sum over lanes would need another
  layout in shared memory, with conflicts between banks.
  """
  return jnp.dot(x, x.T, preferred_element_type=jnp.float32)
