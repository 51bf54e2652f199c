"""The gates: each raises GateError, naming the kernel or the step that breaks it."""

import re
from collections.abc import Iterable

from pallas_kernels.gates.deviceless import Kernel, Report
from pallas_kernels.gates.hlo import instructions

# A thread can name 255 registers; past 168, a block of 384 threads no longer fits twice.
MOST_REGISTERS = 255
_CONTROL = frozenset({"kWhile", "kConditional", "kSequential", "kCommandBuffer"})
# Steps that pass arrays on, and updates that write into the array that they are given.
_NO_ARRAY = frozenset(
  {"parameter", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "constant"}
)
# Of PTX: asynchronous copies, multiplications of pairs of bfloat16, conversions of integers, stores to shared memory.
_OF_A_LOOP = (r"cp\.async\.c", r"fma\.rn\.bf16x2$", r"cvt\.rn\.\w+\.[su]\d+$", r"st\.shared")
_IN_PLACE = frozenset({"dynamic-update-slice", "scatter"})


class GateError(AssertionError):
  """A compiled program does not keep what a gate promises."""


def no_spills(kernels: Iterable[Kernel]) -> None:
  """Every value of every kernel stays in registers."""
  for kernel in kernels:
    if kernel.spill_bytes:
      raise GateError(f"{kernel.name} ({kernel.arch}) spills {kernel.spill_bytes} bytes: use smaller blocks")


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


def packed_in_registers(kernels: Iterable[Kernel]) -> None:
  """Weights of few bits reach the products asynchronously, and become bfloat16 two at a time, in registers alone.

  Zeros of groups may be converted one by one: there is one for at least 32 weights.
  """
  for kernel in kernels:
    copies, pairs, singles, stores = (
      sum(count for name, count in kernel.loop.items() if re.match(pattern, name)) for pattern in _OF_A_LOOP
    )
    wrong = ["no asynchronous copies"] * (not copies) + ["no multiplications of pairs"] * (not pairs)
    wrong += [f"{singles} conversions of single integers"] * (8 * singles > pairs)
    wrong += [f"{stores} stores to shared memory"] * (stores > 0)
    if wrong:
      raise GateError(f"{kernel.name} ({kernel.arch}): its loop over products holds {', '.join(wrong)}")


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


def no_copy_of(report: Report, least_bytes: int) -> None:
  """No step of the optimised program makes an array of `least_bytes` or more, except by updating one in place.

  Weights and caches are larger than any activation of a decode step, so an array of their size is a copy, a
  transposition or a widening of one.
  """
  for instruction in instructions(report.hlo):
    if instruction.fused or instruction.opcode in _NO_ARRAY or instruction.bytes < least_bytes:
      continue
    if instruction.opcode == "fusion" and instruction.root in _IN_PLACE:
      continue
    raise GateError(
      f"{instruction.name} = {instruction.shape} {instruction.opcode} makes {instruction.bytes} bytes: "
      "an array of weights or cache is copied"
    )
