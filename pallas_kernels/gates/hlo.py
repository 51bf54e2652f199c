"""Reads an optimised HLO module, as text: what each step makes."""

import dataclasses
import re
from collections.abc import Iterator

_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = (\w+)\[([\d,]*)\]\S* ([\w-]+)\(")
_CALLS = re.compile(r"calls=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
  """A step that makes one array.

  Attributes:
    name: its name in the module.
    opcode: what it does.
    shape: its result, as HLO writes it.
    bytes: size of the result.
    fused: whether it is part of a fusion, so that its result never reaches memory.
    root: for a fusion, what its last step does, bitcasts aside.
  """

  name: str
  opcode: str
  shape: str
  bytes: int
  fused: bool
  root: str | None


def instructions(hlo: str) -> Iterator[Instruction]:
  """Every step of the module that makes an array, those inside fusions too."""
  called = set(_CALLS.findall(hlo))
  roots = _roots(hlo)
  computation = ""
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      computation = found.group(1)
    elif found := _INSTRUCTION.match(line):
      _, name, kind, dims, opcode = found.groups()
      size = _ITEM_BYTES.get(kind, 4)
      for dim in filter(None, dims.split(",")):
        size *= int(dim)
      fusion = _CALLS.search(line)
      yield Instruction(
        name=name,
        opcode=opcode,
        shape=f"{kind}[{dims}]",
        bytes=size,
        fused=computation in called,
        root=roots.get(fusion.group(1)) if fusion else None,
      )


def _roots(hlo: str) -> dict[str, str]:
  """What the last step of each computation does, looking through bitcasts."""
  roots, opcodes, operands, computation = {}, {}, {}, ""
  for line in hlo.splitlines():
    if found := _COMPUTATION.match(line):
      computation, opcodes, operands = found.group(1), {}, {}
    elif found := _INSTRUCTION.match(line):
      root, name, _, _, opcode = found.groups()
      opcodes[name] = opcode
      operands[name] = re.findall(r"%?([\w.-]+)", line[found.end() :].split(")")[0])[:1]
      if root:
        while opcodes.get(name) == "bitcast" and operands[name]:
          name = operands[name][0]
        roots[computation] = opcodes.get(name, "parameter")
  return roots
