"""Block sizes of the experts' GPU kernels, by shape."""

from pallas_kernels.gpu.blocks import Blocks, choose, dividing_step, sizes_of_form, tiled_step
from pallas_kernels.weights.form import Form

# 16 rows are the fewest that tensor cores take. A decode step seldom sends an expert more.
DECODE_TILE = 16
_PREFILL_TILE = 64
# An H100 has 132 multiprocessors, an A100 108.
_PROGRAMS = 128


def tile_rows_for(rows: int, top_k: int, experts: int) -> int:
  """Rows of a tile: as few as tensor cores take, unless experts have many rows."""
  return DECODE_TILE if rows * top_k < 32 * experts or rows <= 64 else _PREFILL_TILE


def choose_blocks(
  kernel: str, tile: int, columns: int, inner: int, top_k: int, parts: int, form: Form | None = None
) -> Blocks:
  """Block sizes for `parts` results [tile, columns] summed over `inner`, if as few as `top_k` experts may be live."""

  def rule() -> Blocks:
    if tile > DECODE_TILE:
      if form is None:
        return Blocks(columns=64, inner=64, warps=4, stages=3)
      # Sums of a group stand beside those of all inputs, so registers hold half as many.
      return Blocks(columns=64 // parts, inner=tiled_step(form, inner, 128), warps=4, stages=3)
    block = 64
    while block > 16 and top_k * columns < _PROGRAMS * block:
      block //= 2
    # At most 80 KB in flight, so that two programs fit an A100's multiprocessor.
    most = 128 if parts * block <= 64 or form is not None else 64
    step = dividing_step(inner, most) if form is None else tiled_step(form, inner, most)
    return Blocks(columns=block, inner=step, warps=4, stages=4)

  return choose(kernel, (tile, columns, inner, top_k, parts, *sizes_of_form(form, inner)), rule)
