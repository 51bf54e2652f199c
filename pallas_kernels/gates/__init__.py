"""What must hold of a GPU kernel, checked by the compiler on a machine that has no GPU."""

from pallas_kernels.gates.checks import (
  GateError,
  captured,
  kernel_launches,
  no_copy_of,
  no_spills,
  packed_in_registers,
  uses_tensor_cores,
  within_limits,
)
from pallas_kernels.gates.deviceless import Kernel, Report, Thunk, compile_for
from pallas_kernels.gates.targets import TARGETS, Target

__all__ = [
  "TARGETS",
  "GateError",
  "Kernel",
  "Report",
  "Target",
  "Thunk",
  "captured",
  "compile_for",
  "kernel_launches",
  "no_copy_of",
  "no_spills",
  "packed_in_registers",
  "uses_tensor_cores",
  "within_limits",
]
