"""Documents packed into tokens, and batches drawn from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.tiny_corpus.batches import Sampler, pack


class TestBatches:
  def test_documents_are_packed_between_stops(self):
    documents = [np.array(ids, np.uint16) for ids in ([5, 6], [], [7])]
    packed = pack(documents, 0)
    assert packed.dtype == np.uint16
    assert packed.tolist() == [0, 5, 6, 0, 0, 7, 0]
    assert pack([], 9).tolist() == [9]

  @given(st.integers(3, 300), st.integers(1, 9), st.integers(1, 12), st.integers(0, 5), st.integers(0, 2))
  def test_an_epoch_visits_each_window_once(self, size, batch, length, seed, epoch):
    if size < 2 * length + 1:
      return
    sampler = Sampler(np.arange(size, dtype=np.uint16), batch, length, seed=seed)
    first = epoch * sampler.windows
    rows = [row for step in range((first + sampler.windows) // batch + 1) for row in sampler.batch(step)]
    visited = rows[first : first + sampler.windows]
    starts = sorted(int(row[0]) for row in visited)
    assert starts == list(range(starts[0], starts[0] + sampler.windows * length, length))
    assert starts[0] < length
    assert all(np.array_equal(row, np.arange(row[0], row[0] + length + 1)) for row in visited)

  def test_a_batch_is_a_pure_function_of_seed_and_step(self):
    tokens = np.arange(1000, dtype=np.uint16)
    steps = [40, 3, 17, 3, 0]
    drawn = [Sampler(tokens, 4, 16, seed=1).batch(step) for step in steps]
    one = Sampler(tokens, 4, 16, seed=1)
    assert all(np.array_equal(one.batch(step), batch) for step, batch in zip(steps, drawn, strict=True))
    assert drawn[0].shape == (4, 17)
    assert drawn[0].dtype == np.int32
    assert not np.array_equal(one.batch(0), Sampler(tokens, 4, 16, seed=2).batch(0))

  def test_epochs_differ(self):
    sampler = Sampler(np.arange(3000, dtype=np.uint16), 1, 8, seed=0)
    epochs = [[int(sampler.batch(epoch * sampler.windows + at)[0, 0]) for at in range(50)] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert epochs[0][0] % 8 != epochs[1][0] % 8

  @pytest.mark.parametrize(("batch", "length"), [(0, 4), (2, 0), (2, 8)])
  def test_sizes_that_give_no_batch_are_refused(self, batch, length):
    with pytest.raises(ValueError, match="length"):
      Sampler(np.zeros(16, np.uint16), batch, length, seed=0)
