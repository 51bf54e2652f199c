"""Products of a program's rows with some outputs of a weight, in steps along the inputs, for weights in every form.

A plain weight is one product a step. A quantised one lies in tiles (`Form`): each place of their words is a product of
its own, with 32 consecutive inputs. The numbers meet the rows as they are, exactly, and the sums of a group are scaled,
which are fewer than its weights; what a group's own zero adds follows from the sum of its inputs. Words are as wide as
bfloat16, and go the same asynchronous way from memory to the registers of a product.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp

from pallas_kernels.gpu.block_sizes import Blocks
from pallas_kernels.gpu.triton_backend import pl, plgpu
from pallas_kernels.gpu.words import added_product, numbers
from pallas_kernels.weights.base import Weight, form_of
from pallas_kernels.weights.bfloat16 import from_bits
from pallas_kernels.weights.form import CODES, LANES, RUN
from pallas_kernels.weights.quantized import QuantizedWeight

READ = ("int8", "int4", "e2m1", "e4m3")
"""Codes of quantised weights that kernels read."""
_SCALES = ("float32", "bfloat16", "float16", "float8_e8m0fnu")
_PARTS = frozenset({"values", "scales", "zeros", "form", "matrix", "numbers"})
# From so many rows on, weights are the left factor: a thread then holds the same number of them whatever the rows are.
_MANY_ROWS = 32

Kept: TypeAlias = Any
"""What a kernel keeps from step to step beside the sums: a pytree of arrays."""


def form_objection(weight: Weight, rows_dtype: Any) -> str | None:
  """Says why kernels cannot multiply rows of that dtype by a quantised weight, or None; None for all other weights."""
  form = form_of(weight)
  if form is None:
    return None
  weight = cast(QuantizedWeight, weight)
  scales, zeros = weight.scales.dtype, weight.zeros
  if rows_dtype != jnp.bfloat16:
    return f"it takes {form.code} weights beside rows of bfloat16, not {rows_dtype.name}"
  if form.layout != "tiles":
    return f"it takes {form.code} weights in the layout 'tiles' (`relayout`), not {form.layout!r}"
  if form.group is not None and (form.group < RUN or form.group & (form.group - 1)):
    return f"it takes groups of a power of two of at least {RUN} inputs, not {form.group}"
  for field in dataclasses.fields(weight):
    if field.name not in _PARTS and getattr(weight, field.name) is not None:
      return f"it takes no weights with {field.name.replace('_', ' ')}"
  if scales.name not in _SCALES:
    return f"it takes scales of {', '.join(_SCALES)}, not {scales.name}"
  if zeros is not None and (form.code != "int4" or not jnp.issubdtype(zeros.dtype, jnp.integer)):
    return f"it takes whole zeros of int4 weights, not {zeros.dtype.name} ones of {form.code}"
  return None


def readable(weight: Weight) -> Weight:
  """The weight with powers of two as their bits, as which kernels load them; nothing is copied."""
  if form_of(weight) is None or (held := cast(QuantizedWeight, weight)).scales.dtype != jnp.float8_e8m0fnu:
    return weight
  return dataclasses.replace(held, scales=jax.lax.bitcast_convert_type(held.scales, jnp.uint8))


def load_rows(x_ref: Any, row: jax.Array, at: jax.Array, *, blocks: Blocks) -> jax.Array:
  """x[row, at], with zeros for inputs past the last."""
  place = x_ref.at[row[:, None], at[None, :]]
  if x_ref.shape[1] % blocks.inner == 0:
    return plgpu.load(place)
  return plgpu.load(place, mask=jnp.broadcast_to(at < x_ref.shape[1], (row.shape[0], at.shape[0])), other=0.0)


def products(
  rows: Callable[[jax.Array, Kept], tuple[jax.Array, Kept]],
  count: int,
  weight: Any,
  at: tuple[jax.Array, ...],
  outs: Sequence[jax.Array],
  blocks: Blocks,
  kept: Kept = (),
  *,
  compiled: bool,
) -> tuple[tuple[jax.Array, ...], Kept]:
  """Sums over all inputs of rows times the weight's outputs, in float32 [count, outputs], and what was kept.

  Args:
    rows: loads [count, inputs] of the given inputs, zeros for those past the last; it takes and returns what is kept.
    count: rows.
    weight: a weight of refs.
    at: which one of a stack.
    outs: for each sum, outputs of the weight.
    blocks: of the launch.
    kept: what `rows` keeps from step to step, at first.
    compiled: whether this is traced for a GPU.
  """
  multiply = _plain if form_of(weight) is None else functools.partial(_tiled, compiled=compiled)
  return multiply(rows, count, weight, at, outs, blocks, kept)


def _plain(rows, count: int, weight, at, outs, blocks: Blocks, kept):
  (ref,) = jax.tree.leaves(weight)
  inner = ref.shape[-1]

  def step(index, carry):
    totals, kept = carry
    place = index * blocks.inner + jnp.arange(blocks.inner)
    x, kept = rows(place, kept)
    # Inputs past the last read the last again, and meet zeros.
    place = place if inner % blocks.inner == 0 else jnp.minimum(place, inner - 1)
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    added = []
    for out in outs:
      part = from_bits(plgpu.load(ref.at[(*at, out[:, None], place[None, :])]))
      added.append(jnp.dot(x, part.T, precision=precision, preferred_element_type=jnp.float32))
    return tuple(total + product for total, product in zip(totals, added, strict=True)), kept

  totals = tuple(jnp.zeros((count, out.shape[0]), jnp.float32) for out in outs)
  return jax.lax.fori_loop(0, pl.cdiv(inner, blocks.inner), step, (totals, kept))


@dataclasses.dataclass(frozen=True, slots=True)
class _Outputs:
  """Some outputs of each part of a quantised weight, and how a step goes through them.

  Attributes:
    weight: of refs.
    at: which one of a stack.
    places: for each part, tile and lane of the outputs.
    step: inputs of a step.
  """

  weight: QuantizedWeight
  at: tuple[jax.Array, ...]
  places: list[tuple[jax.Array, jax.Array]]
  step: int

  @property
  def groups(self) -> int:
    """Groups of a step; a group may span several steps, and then is one of each."""
    group = self.weight.form.group
    return 1 if group is None else max(1, self.step // group)

  def words(self, block: jax.Array) -> list[jax.Array]:
    """The words [outputs, 32] of a block; past the last block those of the last, which meet zeros."""
    ref, blocks = self.weight.values, self.weight.values.shape[-3]
    block = block if blocks * self.weight.form.block % self.step == 0 else jnp.minimum(block, blocks - 1)
    word = jnp.arange(RUN)[None, :]
    return [plgpu.load(ref.at[(*self.at, tile[:, None], block, lane[:, None], word)]) for tile, lane in self.places]

  def of_groups(self, index: jax.Array, ref: Any) -> list[list[jax.Array]]:
    """For each group of a step: scales or zeros of each part's outputs."""
    group = self.weight.form.group or self.step
    found = ((index * self.step + g * group) // group for g in range(self.groups))
    wanted = [jnp.minimum(g, ref.shape[-2] - 1) for g in found]
    return [[plgpu.load(ref.at[(*self.at, tile, g, lane)]) for tile, lane in self.places] for g in wanted]


def _tiled(rows, count: int, weight: QuantizedWeight, at, outs, blocks: Blocks, kept, *, compiled: bool):
  form, many = weight.form, count >= _MANY_ROWS
  # Signed division and remainder: through them Triton sees what lies together.
  places = [(jax.lax.div(out, jnp.int32(LANES)), jax.lax.rem(out, jnp.int32(LANES))) for out in outs]
  outputs = _Outputs(weight, at, places, blocks.inner)
  in_step = blocks.inner // form.block
  runs = in_step * form.in_word // outputs.groups
  shape = (outs[0].shape[0], count) if many else (count, outs[0].shape[0])
  none, ones = jnp.zeros(shape, jnp.float32), jnp.ones((outs[0].shape[0], RUN), jnp.bfloat16)
  add = functools.partial(added_product, compiled=compiled)

  def dot(x: jax.Array, factor: jax.Array) -> jax.Array:
    left, right = (factor, x.T) if many else (x, factor.T)
    return jnp.dot(left, right, preferred_element_type=jnp.float32)

  def spread(by_output: jax.Array) -> jax.Array:
    return jnp.broadcast_to(by_output[:, None] if many else by_output[None, :], shape)

  def loaded(index: jax.Array) -> tuple[Any, Any]:
    scales = None if form.group is None else outputs.of_groups(index, weight.scales)
    return scales, None if weight.zeros is None else outputs.of_groups(index, weight.zeros)

  def step(index, carry):
    totals, (scales, zeros), kept = carry
    # Those of the next step, so that they are there when it begins.
    coming, words = loaded(index + 1), []
    for g in range(outputs.groups):
      sums, of_inputs = totals if scales is None else (none,) * len(outs), none
      for run in range(g * runs, (g + 1) * runs):
        block, place = index * in_step + run // form.in_word, run % form.in_word
        words = outputs.words(block) if place == 0 else words
        x, kept = rows(block * form.block + place * RUN + jnp.arange(RUN), kept)
        factors = (numbers(part, form.code, place, compiled=compiled) for part in words)
        sums = tuple(total + dot(x, factor) for total, factor in zip(sums, factors, strict=True))
        of_inputs = of_inputs if zeros is None else of_inputs + dot(x, ones)
      if zeros is not None:
        offsets = (spread(CODES[form.code].zero - zero.astype(jnp.float32)) for zero in zeros[g])
        sums = tuple(add(total, of_inputs, offset) for total, offset in zip(sums, offsets, strict=True))
      if scales is not None:
        by = (spread(_wide(scale)) for scale in scales[g])
        sums = tuple(add(total, of_group, scale) for total, of_group, scale in zip(totals, sums, by, strict=True))
      totals = sums
    return totals, coming, kept

  start = ((none,) * len(outs), loaded(jnp.int32(0)), kept)
  totals, _, kept = jax.lax.fori_loop(0, pl.cdiv(weight.values.shape[-3], in_step), step, start)
  if form.group is None:
    (scales,) = outputs.of_groups(jnp.int32(0), weight.scales)
    totals = tuple(total * spread(_wide(scale)) for total, scale in zip(totals, scales, strict=True))
  return tuple(total.T if many else total for total in totals), kept


def _wide(scales: jax.Array) -> jax.Array:
  """Scales in float32; bytes are the exponents of powers of two, as float32 has them."""
  if scales.dtype == jnp.uint8:
    return jax.lax.bitcast_convert_type(scales.astype(jnp.int32) << 23, jnp.float32)
  return scales.astype(jnp.float32)
