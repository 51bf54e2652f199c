"""The raw keys of random streams, computed on the host: a call of JAX would wait behind the steps in flight."""

import numpy as np
from jaxtyping import UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF


def stream_key(seed: int, stream: int) -> UInt32[np.ndarray, "2"]:
  """`jax.random.key_data(jax.random.fold_in(jax.random.key(seed), stream))` of JAX's default generator.

  That is the block cipher Threefry-2x32 of 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
  3"), with the seed as its key and the stream as its counter.
  """
  keys = (0, seed & _WORD, (seed & _WORD) ^ _PARITY)
  low, high = keys[0], (stream + keys[1]) & _WORD
  for group in range(5):
    for rotation in _ROTATIONS[group % 2]:
      low = (low + high) & _WORD
      high = ((high << rotation) | (high >> (32 - rotation))) & _WORD
      high ^= low
    low = (low + keys[(group + 1) % 3]) & _WORD
    high = (high + keys[(group + 2) % 3] + group + 1) & _WORD
  return np.array([low, high], np.uint32)
