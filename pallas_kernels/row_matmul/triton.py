"""One program for some columns of the result: it reads their weights once, all rows at a time."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from pallas_kernels.gpu.blocks import Blocks, choose, dividing_step
from pallas_kernels.gpu.pallas_call import call
from pallas_kernels.weights.base import held_as

MOST_ROWS = 64
# A product's tile has at least 16 rows and columns on tensor cores.
_LEAST = 16


def choose_blocks(rows: int, columns: int, inner: int) -> Blocks:
  """As many columns a program as leave one for every multiprocessor, of which an H100 has 132."""
  rows = max(_LEAST, pl.next_power_of_2(rows))

  def rule() -> Blocks:
    block = 64
    while block > _LEAST and columns < 128 * block:
      block //= 2
    # Each warp reads all of a step's `x`: the fewer, the less of that. Steps of 64 numbers a warp or more give each
    # lane 4 bytes of the norm's scale, the least that loads in flight are made of.
    steps = dividing_step(inner, 256)
    warps, in_step = min(4, max(2, rows * block // 256)), 2 * steps * (rows + block)
    return Blocks(columns=block, inner=steps, warps=warps, stages=4 if in_step <= 24 * 1024 else 3)

  return choose("row_matmul", (rows, columns, inner), rule)


def objection(x, weights, norm_scale, biases, residual, *, norm_eps, dtype) -> str | None:
  """Why the kernel cannot take these arguments, or None."""
  for weight in weights:
    if held_as(weight) is not None:
      return f"{held_as(weight)} weights are not for the GPU kernels yet: plain JAX takes them"
  if x.shape[0] > MOST_ROWS:
    return f"it takes at most {MOST_ROWS} rows, not {x.shape[0]}"
  if x.dtype not in (jnp.bfloat16, jnp.float16):
    return f"it takes bfloat16 or float16, not {x.dtype.name}"
  if x.shape[1] % _LEAST:
    return f"it takes rows of a multiple of {_LEAST} values, not {x.shape[1]}"
  return None


def row_matmul_triton(
  x: jax.Array,
  weights: tuple[jax.Array, ...],
  norm_scale: jax.Array | None,
  biases: tuple[jax.Array | None, ...],
  residual: jax.Array | None,
  *,
  norm_eps: float,
  dtype: str,
) -> tuple[jax.Array, ...]:
  """`row_matmul` with each weight, in one launch."""
  rows, inner = x.shape
  widths = [weight.shape[0] for weight in weights]
  blocks = choose_blocks(rows, sum(widths), inner)
  inputs = {"x": x, "norm_scale": norm_scale, "residual": residual}
  inputs |= {f"weight{index}": weight for index, weight in enumerate(weights)}
  inputs |= {f"bias{index}": bias for index, bias in enumerate(biases)}
  given = {name: array for name, array in inputs.items() if array is not None}
  return tuple(
    call(
      functools.partial(_kernel, names=tuple(given), norm_eps=norm_eps, blocks=blocks),
      *given.values(),
      grid=(sum(pl.cdiv(width, blocks.columns) for width in widths),),
      out_shape=[jax.ShapeDtypeStruct((rows, width), jnp.dtype(dtype)) for width in widths],
      name="row_matmul",
      num_warps=blocks.warps,
      num_stages=blocks.stages,
    )
  )


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
  # Rows and columns past the last read the last again: what they give is not stored.
  row_in, column_in = jnp.minimum(row, rows - 1), jnp.minimum(column, columns - 1)
  even = inner % blocks.inner == 0

  def step(index, carry):
    total, squares = carry
    at = index * blocks.inner + jnp.arange(blocks.inner)
    at_in = at if even else jnp.minimum(at, inner - 1)
    x = plgpu.load(x_ref.at[row_in[:, None], at_in[None, :]])
    if not even:
      x = jnp.where((at < inner)[None, :], x, jnp.zeros_like(x))
    if norm_ref is not None:
      # On tensor cores, as every other use of `x`: a sum over lanes would have it lie in shared memory so that their
      # reads meet in few banks.
      squares += jnp.dot(x, x.T, preferred_element_type=jnp.float32)
      x *= plgpu.load(norm_ref.at[at_in])[None, :]
    weight = plgpu.load(weight_ref.at[column_in[:, None], at_in[None, :]])
    return total + jnp.dot(x, weight.T, preferred_element_type=jnp.float32), squares

  zeros = jnp.zeros((row_block, blocks.columns), jnp.float32), jnp.zeros((row_block, row_block), jnp.float32)
  y, squares = jax.lax.fori_loop(0, pl.cdiv(inner, blocks.inner), step, zeros)
  if norm_ref is not None:
    squares = jnp.sum(jnp.where(row[:, None] == row[None, :], squares, 0.0), axis=1)
    y *= jax.lax.rsqrt(squares / inner + norm_eps)[:, None]
  if given["bias"] is not None:
    y += plgpu.load(given["bias"].at[column_in]).astype(jnp.float32)[None, :]
  if "residual" in given:
    y += plgpu.load(given["residual"].at[row_in[:, None], column_in[None, :]]).astype(jnp.float32)
  mask = (row < rows)[:, None] & (column < columns)[None, :]
  plgpu.store(y_ref.at[row[:, None], column[None, :]], y.astype(y_ref.dtype), mask=mask)
