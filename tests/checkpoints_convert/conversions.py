"""Conversions in the form of a loader, for `benchmarks.load_memory`: they answer with the size of the weights."""

import tempfile
from pathlib import Path
from types import SimpleNamespace

from lynx_jax.models.checkpoints import convert, open_model


def to_orbax(path: str, dtype: str | None = None) -> SimpleNamespace:
  """Converts the directory to Orbax."""
  return _converted(path, dtype, "orbax")


def to_safetensors(path: str, dtype: str | None = None) -> SimpleNamespace:
  """Converts the directory to the hub's form."""
  return _converted(path, dtype, "hf")


def to_orbax_and_back(path: str, dtype: str | None = None) -> SimpleNamespace:
  """Converts the directory to Orbax, and that to the hub's form."""
  return _converted(path, dtype, "orbax", "hf")


def _converted(path: str, dtype: str | None, *forms: str) -> SimpleNamespace:
  with tempfile.TemporaryDirectory() as folder:
    for number, form in enumerate(forms):
      convert(path, Path(folder) / str(number), dtype=dtype, to=form)
      path = str(Path(folder) / str(number))
    with open_model(path) as (_, checkpoint):
      parameters = checkpoint.lazily(checkpoint.dtype)
      return SimpleNamespace(nbytes=parameters.nbytes(parameters.shapes))
