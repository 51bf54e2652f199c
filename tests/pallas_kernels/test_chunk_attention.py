"""One suite for every implementation of `chunk_attention`, judged by the definition in float64."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pallas_kernels import chunk_attention, decode_attention, latent_attention
from pallas_kernels.block_tables import BlockTables
from pallas_kernels.chunk_attention import QueryTiles, most_query_tiles, query_tiles
from pallas_kernels.chunk_attention.arguments import ChunkArrays, ChunkOptions
from pallas_kernels.chunk_attention.cpu import chunk_attention_cpu
from pallas_kernels.cpu import instruction_sets

IMPLEMENTATIONS = ("pallas", "cpu", "reference")
BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Rows of a step, query heads, key/value heads, width of a key, of a value, slots, blocks of a slot's table."""

  rows: int
  heads: int
  groups: int
  width: int
  value_width: int
  slots: int
  blocks: int
  latent: bool = False


GROUPED = Sizes(rows=24, heads=4, groups=2, width=16, value_width=16, slots=3, blocks=3)
ONE_GROUP = Sizes(rows=40, heads=6, groups=1, width=32, value_width=32, slots=2, blocks=4)
LONE_HEADS = Sizes(rows=19, heads=2, groups=2, width=80, value_width=48, slots=4, blocks=2)
LATENT = Sizes(rows=24, heads=20, groups=1, width=48, value_width=32, slots=2, blocks=3, latent=True)
# Sizes, whether there are sinks, and window, chunk and scale. Each is a program to compile.
CASES = (
  (GROUPED, False, (None, None, 0.3)),
  (GROUPED, True, (5, None, 0.3)),
  (ONE_GROUP, True, (40, None, None)),
  (ONE_GROUP, False, (None, 16, 0.3)),
  (LONE_HEADS, True, (None, None, 0.2)),
  (LATENT, False, (None, None, 0.2)),
  (LATENT, True, (33, None, 0.2)),
)


@dataclasses.dataclass
class Step:
  """The arrays of one call, as NumPy has them."""

  query: np.ndarray
  key: np.ndarray
  value: np.ndarray | None
  chunks: list[tuple[int, int, int, int]]
  tables: np.ndarray
  sinks: np.ndarray | None


def drawn_chunks(random, sizes) -> list[Any]:
  """Chunks of some slots, with other rows between them; positions end where the table does, or before."""
  chunks, row = [], 0
  for slot in random.permutation(sizes.slots):
    row += random.integers(0, 3)
    count = min(random.integers(1, 24), sizes.rows - row)
    if count < 1:
      break
    room = sizes.blocks * BLOCK - count
    chunks.append((row, count, slot, random.choice([0, room, random.integers(0, room + 1)])))
    row += count
  return [tuple(int(number) for number in chunk) for chunk in chunks]


def drawn_tables(random, sizes):
  """Blocks of the pool in any order. The first block of the first slot is also that of the last slot."""
  tables = random.permutation(sizes.slots * sizes.blocks + 2)[: sizes.slots * sizes.blocks].astype(np.int32)
  tables = tables.reshape(sizes.slots, sizes.blocks)
  tables[-1, 0] = tables[0, 0]
  return tables


def drawn_step(random, sizes, dtype, sinks):
  """A step with random numbers."""
  tables = drawn_tables(random, sizes)
  # Rounded to what the dtype can hold.
  query, key, value = (
    np.asarray(jnp.asarray(random.normal(size=shape), dtype), np.float64)
    for shape in (
      (sizes.rows, sizes.heads, sizes.width),
      (tables.size + 2, sizes.groups, BLOCK, sizes.width),
      (tables.size + 2, sizes.groups, BLOCK, sizes.value_width),
    )
  )
  drawn = random.normal(0, 3, size=sizes.heads).astype(np.float32) if sinks else None
  return Step(query, key, None if sizes.latent else value, drawn_chunks(random, sizes), tables, drawn)


def seen_by(step, slot, position, window, chunk):
  """The positions that a query sees, those first of which blocks are in the pool; none if its own is not."""

  def held(at):
    entry = at // BLOCK
    return entry < step.tables.shape[1] and 0 <= step.tables[slot, entry] < len(step.key)

  first = 0 if window is None else max(0, position + 1 - window)
  first = max(first, position // chunk * chunk) if chunk else first
  return np.array([at for at in range(first, position + 1) if held(at)] if held(position) else [], int)


def by_numpy(step, sizes, window, chunk, scale):
  """The definition, query by query; and which places of the pool were seen by anyone."""
  mixed = np.zeros((sizes.rows, sizes.heads, sizes.value_width))
  touched = np.zeros((len(step.key), BLOCK), bool)
  value = step.key[..., : sizes.value_width] if step.value is None else step.value
  for start, count, slot, position in step.chunks:
    for index, head in np.ndindex(count, sizes.heads):
      seen, group = seen_by(step, slot, position + index, window, chunk), head * sizes.groups // sizes.heads
      if not seen.size:
        continue
      block, offset = step.tables[slot, seen // BLOCK], seen % BLOCK
      touched[block, offset] = True
      scores = step.key[block, group, offset] @ step.query[start + index, head] * (scale or sizes.width**-0.5)
      top = scores.max() if step.sinks is None else max(scores.max(), step.sinks[head])
      share = np.exp(scores - top)
      total = share.sum() + (0 if step.sinks is None else np.exp(step.sinks[head] - top))
      mixed[start + index, head] = share @ value[block, group, offset] / total
  return mixed, touched


@functools.cache
def compiled(implementation, window, chunk, scale, value_width):
  return jax.jit(
    functools.partial(
      chunk_attention,
      **{"window": window, "chunk": chunk, "scale": scale, "value_width": value_width},
      implementation=implementation,
    )
  )


def attend(implementation, step, sizes, dtype, bounds, tiles=None):
  """What the implementation makes of the step."""
  tiles = tiles or query_tiles(step.chunks, most_query_tiles(sizes.rows, sizes.slots))
  query, key = (jnp.asarray(x, dtype) for x in (step.query, step.key))
  value = None if step.value is None else jnp.asarray(step.value, dtype)
  call = compiled(implementation, *bounds, sizes.value_width if sizes.latent else None)
  mixed = call(query, key, value, tiles, jnp.asarray(step.tables), sinks=step.sinks)
  assert mixed.dtype == dtype
  return np.asarray(mixed, np.float64)


def assert_close(got, expected, dtype):
  tolerance = 1e-5 if dtype == jnp.float32 else 3e-2
  np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestChunkAttention:
  @given(data=st.data())
  @settings(max_examples=8)
  def test_equals_the_definition(self, implementation, dtype, data):
    sizes, sinks, bounds = data.draw(st.sampled_from(CASES))
    random = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    step = drawn_step(random, sizes, dtype, sinks=sinks)
    expected, touched = by_numpy(step, sizes, *bounds)
    # What nobody sees may hold anything.
    for pool in (step.key, step.value):
      if pool is not None:
        pool.swapaxes(1, 2)[~touched] = np.nan
    assert_close(attend(implementation, step, sizes, dtype, bounds), expected, dtype)

  def test_blocks_behind_a_window_may_be_gone(self, implementation, dtype):
    sizes, random = GROUPED, np.random.default_rng(1)
    step = drawn_step(random, sizes, dtype, sinks=False)
    step.chunks = [(2, 20, 1, 70)]
    expected, _ = by_numpy(step, sizes, 5, None, 0.3)
    step.tables[1, :2] = -1, len(step.key)
    assert_close(attend(implementation, step, sizes, dtype, (5, None, 0.3)), expected, dtype)

  def test_what_is_absent_is_zeros_and_is_not_seen(self, implementation, dtype):
    sizes, random = GROUPED, np.random.default_rng(2)
    step = drawn_step(random, sizes, dtype, sinks=True)
    # Rows 0 to 7 cross into an absent block, rows 8 to 11 have one behind them, and rows 12 to 19 leave the table.
    step.chunks = [(0, 8, 0, 28), (8, 4, 1, 40), (12, 8, 2, 92)]
    step.tables[0, 1] = step.tables[1, 0] = -1
    expected, _ = by_numpy(step, sizes, None, None, 0.3)
    got = attend(implementation, step, sizes, dtype, (None, None, 0.3))
    assert_close(got, expected, dtype)
    present = [*range(4), *range(8, 16)]
    np.testing.assert_array_equal(got.any(axis=(1, 2)), np.isin(np.arange(sizes.rows), present))

  @pytest.mark.parametrize("sizes", [GROUPED, LATENT], ids=["heads", "latents"])
  def test_each_row_is_as_in_a_decode_step(self, implementation, dtype, sizes):
    step = drawn_step(np.random.default_rng(4), sizes, dtype, sinks=False)
    slots, positions = np.full(sizes.rows, -1, np.int32), np.zeros(sizes.rows, np.int32)
    for start, count, slot, position in step.chunks:
      slots[start : start + count] = slot
      positions[start : start + count] = position + np.arange(count)
    query, key = (jnp.asarray(x, dtype) for x in (step.query, step.key))
    blocks = BlockTables(jnp.asarray(step.tables), jnp.asarray(slots))
    if sizes.latent:
      options = {"value_width": sizes.value_width, "scale": 0.3, "blocks": blocks}
      expected = latent_attention(query, key[:, 0], jnp.asarray(positions), **options)
    else:
      expected = decode_attention(
        query, key, jnp.asarray(step.value, dtype), jnp.asarray(positions), scale=0.3, blocks=blocks
      )
    got = attend(implementation, step, sizes, dtype, (None, None, 0.3))
    assert_close(got, np.asarray(expected, np.float64), dtype)

  def test_tiles_of_every_count_beside_idle_ones(self, implementation, dtype):
    sizes, random = ONE_GROUP, np.random.default_rng(3)
    step = drawn_step(random, sizes, dtype, sinks=False)
    slotless = np.array([-1, sizes.slots])
    for count in (1, 2, 7, 15, 16):
      step.chunks = [(20, count, 1, 60)]
      expected, _ = by_numpy(step, sizes, None, None, 0.3)
      start, counts, slots = np.array([3, 20, 1, 4]), np.array([0, count, 3, 3]), np.array([0, 1, *slotless])
      numbers: Any = np.stack((start, counts, slots, np.array([9, 60, 0, 5]))).astype(np.int32)
      tiles = QueryTiles(*numbers)
      assert_close(attend(implementation, step, sizes, dtype, (None, None, 0.3), tiles), expected, dtype)


@pytest.mark.parametrize("instructions", instruction_sets())
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestInstructionSets:
  def test_every_set_equals_the_definition(self, instructions, dtype):
    for seed, width, value_width in ((0, 64, 48), (1, 33, 7)):
      sizes = dataclasses.replace(GROUPED, heads=14, width=width, value_width=value_width)
      step = drawn_step(np.random.default_rng(seed), sizes, dtype, sinks=True)
      expected, _ = by_numpy(step, sizes, 40, None, 0.2)
      query, key, value = (jnp.asarray(x, dtype) for x in (step.query, step.key, step.value))
      tiles = query_tiles(step.chunks, most_query_tiles(sizes.rows, sizes.slots))
      arrays = ChunkArrays(
        query, key, value, jax.tree.map(jnp.asarray, tiles), jnp.asarray(step.tables), jnp.asarray(step.sinks)
      )
      options = ChunkOptions(window=40, chunk=None, scale=0.2, value_width=value_width)
      got = chunk_attention_cpu(arrays, options=options, instructions=instructions)
      assert_close(np.asarray(got, np.float64), expected, dtype)


class TestQueryTiles:
  def test_chunks_are_cut_into_sixteens(self):
    tiles = query_tiles([(2, 35, 1, 7), (40, 16, 0, 0)], most=6)
    np.testing.assert_array_equal(tiles.start, [2, 18, 34, 40, 0, 0])
    np.testing.assert_array_equal(tiles.count, [16, 16, 3, 16, 0, 0])
    np.testing.assert_array_equal(tiles.slot, [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(tiles.position, [7, 23, 39, 0, 0, 0])
    assert all(field.dtype == np.int32 for field in tiles)

  def test_no_chunks_are_idle_tiles(self):
    assert query_tiles([], most=2).count.tolist() == [0, 0]

  @given(st.lists(st.integers(1, 70), min_size=1, max_size=6))
  def test_the_most_tiles_are_enough_and_can_be_needed(self, counts):
    rows, chunks = sum(counts), len(counts)
    most = most_query_tiles(rows, chunks)
    starts = np.cumsum([0, *counts])
    query_tiles([(int(start), count, 0, 0) for start, count in zip(starts, counts, strict=False)], most)
    needy = [rows - chunks + 1] + [1] * (chunks - 1)
    assert sum(-(-count // 16) for count in needy) == most
    assert most_query_tiles(rows, rows + 5) == most_query_tiles(rows, rows) == rows
    assert most_query_tiles(rows, 0) == 0

  def test_what_does_not_fit_is_named(self):
    with pytest.raises(
      ValueError, match="query_tiles: most is 2: expected at least 3, the tiles of these chunks; take"
    ):
      query_tiles([(0, 33, 0, 0)], most=2)
    with pytest.raises(ValueError, match=r"a chunk is \(0, 1, -1, 0\): expected \(start, count, slot, position\) of"):
      query_tiles([(0, 1, -1, 0)], most=2)


def test_what_the_kernels_cannot_take_is_named(own_errors):
  query, pool, tables = jnp.zeros((4, 2, 24)), jnp.zeros((2, 2, BLOCK, 24)), jnp.zeros((1, 1), jnp.int32)
  with pytest.raises(NotImplementedError, match="it takes keys of a multiple of 16 numbers, not 24"):
    chunk_attention(query, pool, pool, query_tiles([], most=1), tables, implementation="pallas")
  half = query.astype(jnp.float16)
  with pytest.raises(NotImplementedError, match="queries of float16 with a cache of float32: both float32, or both"):
    chunk_attention(half, pool, pool, query_tiles([], most=1), tables, implementation="cpu")


def test_arguments_that_do_not_go_together_are_named(own_errors):
  query, pool, tables = jnp.zeros((4, 4, 16)), jnp.zeros((2, 2, BLOCK, 16)), jnp.zeros((1, 1), jnp.int32)
  tiles = query_tiles([], most=1)
  for arrays, options, message in (
    ((query[:, :3], pool, pool), {}, "query.shape.1. is 3: expected a multiple of 2"),
    ((query, pool[:, :, :8], pool), {}, "key.shape is .*: expected blocks of 32 positions"),
    ((query, pool, None), {"scale": 1.0, "value_width": 17}, "value_width is 17: expected a whole number from 1 to 16"),
    ((query, pool, None), {"value_width": 8}, "scale is None: expected a number"),
    ((query, pool, pool), {"value_width": 8}, "value_width is 8: expected None beside values"),
  ):
    with pytest.raises(ValueError, match=message):
      chunk_attention(*arrays, tiles, tables, **options)  # pyright: ignore[reportArgumentType]
