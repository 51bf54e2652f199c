"""Blocks are found by contents, freed at once, and the least recently used are evicted, the ends of tables first."""

import pytest

from lynx_jax.engine.host.block_keys import block_key, root_key
from lynx_jax.engine.host.block_pool import BlockPool


def test_the_least_recently_used_is_evicted_and_of_a_table_its_end():
  pool = BlockPool(4)
  first, second = pool.take(2), pool.take(2)
  for block in (*first, *second):
    pool.publish(block, bytes([block]))
  pool.drop(first)
  pool.drop(second)
  assert (pool.cached, pool.available, pool.held) == (4, 4, 0)
  # Used again, so the first table is now the last to go.
  pool.hold(first)
  pool.drop(first)
  assert pool.take(4) == [second[1], second[0], first[1], first[0]]
  assert all(pool.find(bytes([block])) is None for block in range(4))


def test_empty_blocks_are_taken_before_cached_ones():
  pool = BlockPool(3)
  (kept,) = pool.take(1)
  pool.publish(kept, b"key")
  pool.drop([kept])
  pool.take(2)
  assert pool.find(b"key") == kept


def test_of_two_blocks_with_the_same_contents_the_first_is_found():
  pool = BlockPool(2)
  first, second = pool.take(2)
  pool.publish(first, b"key")
  pool.publish(second, b"key")
  pool.drop([second])
  assert pool.find(b"key") == first
  assert pool.cached == 0


def test_withdrawn_blocks_are_found_no_more():
  pool = BlockPool(3)
  blocks = pool.take(3)
  for block in blocks:
    pool.publish(block, bytes([block]))
  pool.withdraw(blocks[:1])
  assert [pool.find(bytes([block])) for block in blocks] == [None, blocks[1], blocks[2]]
  pool.drop(blocks[:2])
  pool.withdraw_all()
  assert (pool.find(bytes([blocks[2]])), pool.cached, pool.available) == (None, 0, 2)


def test_keys_differ_by_everything_that_contents_depend_on():
  root = root_key(0, "")
  keys = [
    block_key(root, (1, 2)),
    block_key(root, (2, 1)),
    block_key(root, (1, 2), "adaptive auto"),
    block_key(root_key(1, ""), (1, 2)),
    block_key(root_key(0, "salt"), (1, 2)),
    block_key(block_key(root, (1, 2)), (1, 2)),
  ]
  assert len(set(keys)) == len(keys)
  assert block_key(root, [1, 2]) == keys[0]


def test_a_token_id_that_would_not_fit_a_key_is_refused():
  with pytest.raises(OverflowError):
    block_key(root_key(0, ""), (2**32,))
