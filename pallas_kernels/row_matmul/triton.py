"""`row_matmul` on NVIDIA GPUs: each program reads the weights of some columns once, and multiplies all rows by them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.blocks import Blocks, choose, dividing_step, sizes_of_form, tiled_step
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.gpu.weight_products import form_objection, load_rows, products, readable
from pallas_kernels.row_matmul.arguments import RowArrays, RowOptions
from pallas_kernels.weights.base import form_of, held_as
from pallas_kernels.weights.form import Form

MOST_ROWS = 64
# A product's tile has at least 16 rows and columns on tensor cores.
_LEAST = 16


def choose_blocks(
  rows: int, columns: int, inner: int, *, normed_before: bool = False, form: Form | None = None
) -> Blocks:
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
    steps = dividing_step(inner, 256) if form is None else tiled_step(form, inner, 128)
    bits = 16 if form is None else form.bits
    warps, in_step = min(4, max(2, rows * block // 256)), steps * (2 * rows * (1 + normed_before) + block * bits // 8)
    return Blocks(columns=block, inner=steps, warps=warps, stages=4 if in_step <= 24 * 1024 else 3)

  return choose("row_matmul", (rows, columns, inner, *sizes_of_form(form, inner)), rule)


def objection(arrays: RowArrays, *, options: RowOptions) -> str | None:
  """Says why the kernel cannot take these arguments, or None."""
  x = arrays.x
  if x.shape[0] > MOST_ROWS:
    return f"it takes at most {MOST_ROWS} rows, not {x.shape[0]}"
  if x.dtype not in (jnp.bfloat16, jnp.float16):
    return f"it takes bfloat16 or float16, not {x.dtype.name}"
  if x.shape[1] % _LEAST:
    return f"it takes rows of a multiple of {_LEAST} values, not {x.shape[1]}"
  if len({form_of(weight) for weight in arrays.weights}) > 1:
    names = sorted({held_as(weight) or "plain arrays" for weight in arrays.weights})
    return f"it takes weights of one form, not of several ({' and '.join(names)})"
  return next(filter(None, (form_objection(weight, x.dtype) for weight in arrays.weights)), None)


def row_matmul_triton(arrays: RowArrays, *, options: RowOptions) -> tuple[jax.Array, ...]:
  """`row_matmul` with each weight, in one launch."""
  (rows, inner), weights = arrays.x.shape, tuple(map(readable, arrays.weights))
  widths, normed_before = [weight.shape[0] for weight in weights], _normed_before(arrays.x, arrays.norm_scale)
  blocks = choose_blocks(rows, sum(widths), inner, normed_before=normed_before, form=form_of(weights[0]))
  given, tree = jax.tree.flatten(arrays._replace(weights=weights, used=None))
  kernel = functools.partial(_kernel, tree=tree, norm_eps=options.norm_eps, blocks=blocks)
  return tuple(
    call(
      functools.partial(kernel, compiled=True),
      *given,
      grid=(sum(pl.cdiv(width, blocks.columns) for width in widths),),
      out_shape=[jax.ShapeDtypeStruct((rows, width), jnp.dtype(options.dtype)) for width in widths],
      name="row_matmul",
      num_warps=blocks.warps,
      num_stages=blocks.stages,
      interpreted=functools.partial(kernel, compiled=False),
    )
  )


def _normed_before(x: Any, norm_scale: Any) -> bool:
  """Whether rows are divided by their root mean square before the product, so that `x` is read twice.

  float16 rows times the norm's scale may pass 65504, the largest float16. bfloat16 rows are divided after the product.
  """
  return norm_scale is not None and x.dtype == jnp.float16


def _kernel(*refs, tree, norm_eps: float, blocks: Blocks, compiled: bool):
  given = RowArrays(*tree.unflatten(refs[: tree.num_leaves]))
  first = 0
  for index, y_ref in enumerate(refs[tree.num_leaves :]):
    block, last = pl.program_id(0) - first, first + pl.cdiv(y_ref.shape[1], blocks.columns)

    @pl.when((pl.program_id(0) >= first) & (pl.program_id(0) < last))
    def run(index=index, block=block, y_ref=y_ref):
      _block(given, index, y_ref, block, norm_eps, blocks, compiled=compiled)

    first = last


def _block(
  given: RowArrays, index: int, y_ref, block: jax.Array, norm_eps: float, blocks: Blocks, *, compiled: bool
) -> None:
  """Computes block number `block` of the columns of result `index`."""
  x_ref, norm_ref, weight, bias = given.x, given.norm_scale, given.weights[index], given.biases[index]
  (rows, inner), columns = x_ref.shape, y_ref.shape[1]
  row_block = max(_LEAST, pl.next_power_of_2(rows))
  row, column = jnp.arange(row_block), block * blocks.columns + jnp.arange(blocks.columns)
  # Rows and columns past the last read the last again. Their results are not stored.
  row_in = jnp.minimum(row, rows - 1)
  # Where nothing is clamped Triton sees what lies together, which words of tiles gain by.
  whole = form_of(weight) is not None and columns % blocks.columns == 0
  column_in = column if whole else jnp.minimum(column, columns - 1)
  load = functools.partial(load_rows, x_ref, row_in, blocks=blocks)
  no_squares = jnp.zeros((row_block, row_block), jnp.float32)

  def inverse(squares: jax.Array) -> jax.Array:
    mean = jnp.sum(jnp.where(row[:, None] == row[None, :], squares, 0.0), axis=1) / inner
    return jax.lax.rsqrt(mean + norm_eps)[:, None]

  before = None
  if _normed_before(x_ref, norm_ref):

    def add_squares(index: jax.Array, squares: jax.Array) -> jax.Array:
      return squares + _gram(load(index * blocks.inner + jnp.arange(blocks.inner)))

    before = inverse(jax.lax.fori_loop(0, pl.cdiv(inner, blocks.inner), add_squares, no_squares))

  def normed(at: jax.Array, squares: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = load(at)
    if norm_ref is None:
      return x, squares
    scale = plgpu.load(norm_ref.at[at if inner % blocks.inner == 0 else jnp.minimum(at, inner - 1)])
    if before is not None:
      return (x.astype(jnp.float32) * before * scale.astype(jnp.float32)[None, :]).astype(x.dtype), squares
    return x * scale[None, :], squares + _gram(x)

  (y,), squares = products(normed, row_block, weight, (), [column_in], blocks, no_squares, compiled=compiled)
  if norm_ref is not None and before is None:
    y *= inverse(squares)
  if bias is not None:
    y += plgpu.load(bias.at[column_in]).astype(jnp.float32)[None, :]
  if given.residual is not None:
    y += plgpu.load(given.residual.at[row_in[:, None], column_in[None, :]]).astype(jnp.float32)
  mask = (row < rows)[:, None] & (column < columns)[None, :]
  plgpu.store(y_ref.at[row[:, None], column[None, :]], y.astype(y_ref.dtype), mask=mask)


def _gram(x: jax.Array) -> jax.Array:
  """Products of all pairs of rows. The diagonal holds the sums of squares.

  Tensor cores compute it, because they take `x` in the layout of its other uses. A sum over lanes would need another
  layout in shared memory, with conflicts between banks.
  """
  return jnp.dot(x, x.T, preferred_element_type=jnp.float32)
