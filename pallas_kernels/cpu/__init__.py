"""Native code for CPUs: C++ behind XLA's foreign function interface, and how it is built and found."""

from pallas_kernels.cpu.library import (
  cpu_call,
  describe,
  instruction_sets,
  product_speed,
  read_bandwidth,
  threads_used,
  unavailable,
  use_threads,
)

__all__ = [
  "cpu_call",
  "describe",
  "instruction_sets",
  "product_speed",
  "read_bandwidth",
  "threads_used",
  "unavailable",
  "use_threads",
]
