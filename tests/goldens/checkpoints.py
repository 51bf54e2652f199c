"""Checkpoints whose weights depend on the names in their files alone."""

import zlib
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from lynx_jax.testing.random_checkpoint import random_checkpoint
from lynx_jax.testing.tiny_configs import TINY

FAMILIES = tuple(sorted(TINY))


def write_checkpoint(family: str, directory: Path) -> None:
  """Writes the float32 checkpoint of a family's tiny configuration.

  `random_checkpoint` draws one parameter after the other, so the order of the decoder's parameters would show. Here
  each tensor is drawn from a seed made of its name in the file, which the family's own releases fix. The weights are
  ten times as wide as there, which keeps the choices of tokens and experts far from ties. Scales of norms stay one.
  """
  random_checkpoint(directory, TINY[family], dtype="float32")
  for path in sorted(directory.glob("*.safetensors")):
    save_file({name: _drawn(name, tensor) for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def _drawn(name: str, tensor: np.ndarray) -> np.ndarray:
  if (tensor == 1).all():
    return tensor
  random = np.random.default_rng(zlib.crc32(name.encode()))
  return (0.2 * random.standard_normal(tensor.shape)).astype(np.float32)
