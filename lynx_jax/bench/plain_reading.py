"""The bound of a decode step: the bytes that it reads, and how fast this machine reads memory."""

import jax

from lynx_jax.engine.report import RoutingReport
from lynx_jax.models.params import Params
from lynx_jax.models.sizes import weight_bytes
from pallas_kernels.cpu import read_bandwidth


def plain_reading() -> float | None:
  """Measures now how many bytes a second this machine reads on the threads of native code; None without native code."""
  return read_bandwidth(1 << 29, 1) if jax.default_backend() == "cpu" else None


def bytes_a_step(params: Params, routing: RoutingReport | None) -> float:
  """Weights that a decode step reads, each once: the experts in use, as a report counted them, and all others."""
  return weight_bytes(params.decoder).always_read + (routing.expert_bytes if routing else 0.0)
