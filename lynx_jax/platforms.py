"""What the environment asks of the commands: the one file that reads and writes environment variables."""

import ctypes
import importlib.util
import os
from pathlib import Path


def settle_platform() -> None:
  """Keeps JAX from complaining about a CUDA plugin on a machine without an NVIDIA driver: there it uses the CPU.

  Does nothing where JAX_PLATFORMS says what to use. Call it before JAX is imported.
  """
  if "JAX_PLATFORMS" not in os.environ and _cuda_plugin() and not _nvidia_driver():
    os.environ["JAX_PLATFORMS"] = "cpu"


def compilation_cache() -> Path | None:
  """Where the commands keep compiled programs; None where they should not.

  LYNX_JAX_COMPILATION_CACHE names a directory, or is `off`. Without it the place is `lynx_jax/programs` in the user's
  cache (XDG_CACHE_HOME, or ~/.cache). Where JAX_COMPILATION_CACHE_DIR is set, JAX keeps programs there by itself.
  """
  asked = os.environ.get("LYNX_JAX_COMPILATION_CACHE", "")
  if asked.lower() == "off" or (not asked and "JAX_COMPILATION_CACHE_DIR" in os.environ):
    return None
  if asked:
    return Path(asked).expanduser()
  try:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
  except RuntimeError:  # nobody's home
    return None
  return Path(home) / "lynx_jax" / "programs"


def _cuda_plugin() -> bool:
  return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") is not None for version in (12, 13))


def _nvidia_driver() -> bool:
  try:
    ctypes.CDLL("libcuda.so.1")
  except OSError:
    return False
  return True
