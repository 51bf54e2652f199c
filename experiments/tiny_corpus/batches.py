"""A stream of tokens, and windows of it in an order that is a pure function of seed and step."""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64, UInt16


def pack(documents: Sequence[UInt16[np.ndarray, " n"]], stop: int) -> UInt16[np.ndarray, " N"]:
  """One stream: `stop`, then each document followed by `stop`."""
  separator = np.array([stop], np.uint16)
  return np.concatenate([separator, *(part for document in documents for part in (document, separator))])


class Sampler:
  """Windows of `length + 1` tokens, of which the first `length` are inputs and the last `length` targets.

  The stream is cut every `length` tokens. Each epoch shifts the cuts by an offset of its own, shuffles the
  windows and visits each once; a batch may span two epochs. Nothing is kept between calls, so a resumed run
  draws what it would have drawn. `windows` is how many there are in an epoch.

  Raises:
    ValueError: a size is not positive, or the stream is shorter than two windows.
  """

  def __init__(self, tokens: UInt16[np.ndarray, " N"], batch: int, length: int, *, seed: int):
    if batch < 1 or length < 1:
      raise ValueError(f"batch={batch}, length={length}: both must be 1 or more")
    # One window less than fits, so that every offset below `length` leaves the same number.
    self.windows = (len(tokens) - 1) // length - 1
    if self.windows < 1:
      raise ValueError(f"{len(tokens)} tokens do not fill two windows of {length}: choose a smaller length")
    self._tokens = tokens
    self._batch = batch
    self._length = length
    self._seed = seed

  def batch(self, step: int) -> Int32[np.ndarray, "B L+1"]:
    """The batch of one step, counted from 0."""
    rows = [divmod(step * self._batch + row, self.windows) for row in range(self._batch)]
    starts = np.array([self._starts(epoch)[at] for epoch, at in rows])
    return self._tokens[starts[:, None] + np.arange(self._length + 1)].astype(np.int32)

  def _starts(self, epoch: int) -> Int64[np.ndarray, " windows"]:
    return _window_starts(self._seed, epoch, self.windows, self._length)


@functools.lru_cache(maxsize=4)
def _window_starts(seed: int, epoch: int, windows: int, length: int) -> Int64[np.ndarray, " windows"]:
  """Where each window of an epoch begins, in the order of the visits."""
  generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
  return generator.integers(length) + length * generator.permutation(windows)
