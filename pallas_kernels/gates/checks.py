"""The gates: each raises GateError, naming the kernel or the step that breaks it."""

import re
from collections.abc import Collection, Iterable

from pallas_kernels.gates.deviceless import Kernel, Report

# A thread can name 255 registers; past 168, a block of 384 threads no longer fits twice.
MOST_REGISTERS = 255
_CONTROL = frozenset({"kWhile", "kConditional", "kSequential", "kCommandBuffer"})
_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f8e4m3fn": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_COPY = re.compile(r"= \(?(\w+)\[([\d,]*)\]\S* (copy|copy-start|transpose|convert)\(")


class GateError(AssertionError):
  """A compiled program does not keep what a gate promises."""


def no_spills(kernels: Iterable[Kernel]) -> None:
  """Every value of every kernel stays in registers."""
  for kernel in kernels:
    if kernel.spill_bytes:
      raise GateError(f"{kernel.name} ({kernel.arch}) spills {kernel.spill_bytes} bytes: use smaller blocks or more warps")


def within_limits(report: Report, kernels: Iterable[Kernel], *, blocks_per_sm: int = 1) -> None:
  """Registers and shared memory leave room for `blocks_per_sm` blocks on a multiprocessor."""
  for kernel in kernels:
    if kernel.registers > MOST_REGISTERS or kernel.shared_memory > report.target.shared_memory:
      raise GateError(
        f"{kernel.name} ({kernel.arch}) needs {kernel.registers} registers and {kernel.shared_memory} bytes of "
        f"shared memory; there are {MOST_REGISTERS} and {report.target.shared_memory}"
      )
    if (fit := kernel.blocks_per_sm(report.target)) < blocks_per_sm:
      raise GateError(
        f"{kernel.name} ({kernel.arch}): {fit} blocks fit a multiprocessor, expected {blocks_per_sm} "
        f"({kernel.registers} registers, {kernel.threads} threads, {kernel.shared_memory} bytes of shared memory)"
      )


def uses_tensor_cores(kernels: Iterable[Kernel]) -> None:
  """Every kernel given multiplies matrices on tensor cores."""
  for kernel in kernels:
    if not kernel.tensor_core:
      raise GateError(f"{kernel.name} ({kernel.arch}) holds neither mma.sync nor wgmma")


def captured(report: Report) -> None:
  """The whole program is one CUDA graph: nothing runs outside of a single command buffer."""
  outside, graph_depth, graphs = [], None, 0
  for thunk in report.thunks:
    if graph_depth is not None and thunk.depth > graph_depth:
      continue
    graph_depth = None
    if thunk.kind == "kCommandBuffer":
      graph_depth, graphs = thunk.depth, graphs + 1
    else:
      outside.append(thunk.kind)
  if outside or graphs != 1:
    raise GateError(f"{graphs} command buffers, and outside of them {outside or 'nothing'}: expected one and nothing")


def kernel_launches(report: Report) -> list[str]:
  """What is launched, in order: a name for each step that is not control flow; a loop's body counts once."""
  return [
    (thunk.text.split("] ", 1)[-1].split(" ", 1)[0] if thunk.kind == "kCustomKernel" else thunk.kind)
    for thunk in report.thunks
    if thunk.kind not in _CONTROL
  ]


def no_copy_of(report: Report, least_bytes: int, *, allow: Collection[str] = ()) -> None:
  """No copy, transpose or conversion in the optimised program makes an array of `least_bytes` or more."""
  for match in _COPY.finditer(report.hlo):
    kind, dims, operation = match.groups()
    size = _ITEM_BYTES.get(kind, 4)
    for dim in filter(None, dims.split(",")):
      size *= int(dim)
    if size >= least_bytes and operation not in allow:
      raise GateError(f"{operation} makes {kind}[{dims}], {size} bytes: an array of weights or cache is copied")
