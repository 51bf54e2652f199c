"""Queries and keys normed, clipped and turned by NumPy in float64: the judge of `append_heads` and `prompt_heads`."""

import numpy as np

EPS = 1e-3


def heads_by_numpy(x, width, norm, clip, over="head"):
  """Heads of a projection: `over` says what a norm's mean square is taken over, a head or the projection."""

  def normed(x):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + EPS) * np.asarray(norm, np.float64)

  x = np.asarray(x, np.float64)
  if norm is not None and over == "projection":
    x = normed(x)
  x = x if clip is None else np.clip(x, -clip, clip)
  x = x.reshape(len(x), -1, width)
  return normed(x) if norm is not None and over == "head" else x


def turned_by_numpy(x, angles, magnitude):
  pairs = x[..., : x.shape[2] // 2] + 1j * x[..., x.shape[2] // 2 :]
  pairs = pairs * magnitude * np.exp(1j * np.asarray(angles, np.float64))[:, None]
  return np.concatenate([pairs.real, pairs.imag], axis=-1)
