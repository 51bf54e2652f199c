"""Copies of checkpoints, to be damaged one way each."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.families.cases import Case, checkpoint, reference

Tensors = dict[str, np.ndarray]


def copied(case: Case, directory: Path, dtype: str = "float32") -> Path:
  """A copy of the case's checkpoint, free to change."""
  return Path(shutil.copytree(checkpoint(case, dtype), directory / "model"))


def with_tensors(case: Case, directory: Path, change: Callable[[Tensors], Tensors]) -> Path:
  """A copy whose tensors went through `change`."""
  path = copied(case, directory)
  tensors = change(load_file(path / "model.safetensors"))
  save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
  return path


def sharded(case: Case, directory: Path) -> Path:
  """The case's checkpoint in several files with an index."""
  reference(case).save_pretrained(directory / "sharded", max_shard_size="60KB")
  return directory / "sharded"
