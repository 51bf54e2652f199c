"""Drops one message of JAX: the traceback of its CUDA plugin on a machine that has no NVIDIA driver.

JAX starts every plugin that is installed, logs the failure of the CUDA plugin as an error, and goes on with the CPU. A
machine without a driver runs the CPU anyway, so the traceback reports no fault. JAX's configuration stays as it is, and
other messages do too.
"""

import ctypes
import logging

_PLUGIN = "jax_plugins.xla_cuda"


def drop_plugin_message() -> None:
  """Adds the filter to JAX's logger; calling it again adds nothing."""
  logging.getLogger("jax._src.xla_bridge").addFilter(_is_worth_showing)


def _is_worth_showing(record: logging.LogRecord) -> bool:
  return _PLUGIN not in record.getMessage() or record.exc_info is None or _has_driver()


def _has_driver() -> bool:
  try:
    ctypes.CDLL("libcuda.so.1")
  except OSError:
    return False
  return True
