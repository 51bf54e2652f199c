"""Native code for CPUs: C++ behind XLA's foreign function interface, and how it is built and found."""

from pallas_kernels.native.library import (
  describe,
  instruction_sets,
  native_call,
  product_speed,
  read_bandwidth,
  threads_used,
  unavailable,
  use_threads,
)

__all__ = [
  "describe",
  "instruction_sets",
  "native_call",
  "product_speed",
  "read_bandwidth",
  "threads_used",
  "unavailable",
  "use_threads",
]
