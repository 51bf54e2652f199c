"""Which platform the commands run on: the one file that reads and writes environment variables."""

import ctypes
import importlib.util
import os


def settle_platform() -> None:
  """Keeps JAX from complaining about a CUDA plugin on a machine without an NVIDIA driver: there it uses the CPU.

  Does nothing where JAX_PLATFORMS says what to use. Call it before JAX is imported.
  """
  if "JAX_PLATFORMS" not in os.environ and _cuda_plugin() and not _nvidia_driver():
    os.environ["JAX_PLATFORMS"] = "cpu"


def _cuda_plugin() -> bool:
  return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") is not None for version in (12, 13))


def _nvidia_driver() -> bool:
  try:
    ctypes.CDLL("libcuda.so.1")
  except OSError:
    return False
  return True
