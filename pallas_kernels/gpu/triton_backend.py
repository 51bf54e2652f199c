"""Pallas and its Triton backend: imported here and nowhere else, with the reason if this version of JAX has none.

JAX has deprecated the backend. Without it every op still runs: the GPU kernels say that they are unavailable, and the
dispatcher takes plain JAX.
"""

import functools
import importlib
import warnings
from typing import Any

import jax


def _imported() -> tuple[Any, Any, str | None]:
  """Returns Pallas, its Triton backend and None, or two Nones and the reason."""
  try:
    pallas = importlib.import_module("jax.experimental.pallas")
    triton = importlib.import_module("jax.experimental.pallas.triton")
    # The parts that kernels use: a version that lacks one of them cannot compile the kernels.
    _ = pallas.pallas_call, triton.load, triton.store, triton.CompilerParams
  except (ImportError, AttributeError) as error:
    return None, None, f"jax {jax.__version__} has no Pallas Triton backend ({error})"
  return pallas, triton, None


pl, plgpu, _MISSING = _imported()


def unavailable() -> str | None:
  """Says why GPU kernels cannot be built with this JAX, or None; warns once on a machine with a GPU."""
  if _MISSING is not None and jax.default_backend() == "gpu":
    _warn_once(_MISSING)
  return _MISSING


@functools.cache
def _warn_once(reason: str) -> None:
  warnings.warn(f"the ops of pallas_kernels run in plain JAX on this GPU: {reason}", RuntimeWarning, stacklevel=2)
