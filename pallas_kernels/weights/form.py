"""How a quantised weight is held: the code of its numbers, which of them share a scale, and how they lie in memory."""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from pallas_kernels.checks import field_of, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Code:
  """How a number is written in bits.

  Attributes:
    bits: of one number.
    zero: the stored number that means 0, where a weight has no zeros of its own.
    largest: of the numbers that are stored, less `zero`, in magnitude.
    whole: whether numbers are whole; otherwise they are floats of that many bits (OCP Microscaling Formats 1.0).
  """

  bits: int
  zero: int
  largest: int
  whole: bool = True


CODES: Mapping[str, Code] = MappingProxyType(
  {
    "int8": Code(bits=8, zero=0, largest=127),
    "int4": Code(bits=4, zero=8, largest=8),
    "e2m1": Code(bits=4, zero=0, largest=6, whole=False),
    "e4m3": Code(bits=8, zero=0, largest=448, whole=False),
  }
)
"""Whole numbers of 8 and of 4 bits; floats of 4 bits (MXFP4 and NVFP4 hold them) and of 8 (fp8, without infinities)."""
LAYOUTS = ("rows", "interleaved", "tiles")

LANES = 16
"""Outputs that lie interleaved, or in one tile."""
LINE = 64
"""Bytes of a line of interleaved outputs: one cache line."""
WORD = 16
"""Bits of a word of a tile."""
RUN = 32
"""Words of an output that lie together in a tile, and consecutive inputs that have the same bits of them."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Form:
  """The form of a quantised weight [..., out, in]; static in compiled programs.

  With B numbers in a byte, G groups an output, and inputs filled up to whole groups with numbers that mean 0:

  - `rows`: values [..., out, in / B], scales [..., out, G]. Two numbers of a byte are neighbours, the low half first.
    Files hold this one.
  - `interleaved`: outputs are filled up to a multiple of 16. values [..., out / 16, in / (4 B), 64] are lines of 16
    outputs by 4 B inputs: byte 4 o + i of a line belongs to output o. Its low half is input i, its high half input
    i + 4. scales [..., out / 16, G, 16]. CPUs read this one: a vector register holds the same inputs of 16 outputs.
  - `tiles`: outputs are filled up to a multiple of 16, inputs to whole blocks too. A block of an output is 32 words of
    16 bits, which hold 2 B numbers each, the lowest bits first: number k of word j is input 32 k + j of the block.
    values [..., out / 16, blocks, 16, 32] in uint16; scales [..., out / 16, G, 16], with those of groups that only
    fill up the last block. GPUs read this one: a program takes kilobytes that lie together, and numbers of the same
    place in their words have neighbouring inputs, which share a scale.

  Zeros, where there are some, have the shape of scales; gains have that of scales where an output has one.

  Attributes:
    code: one of `CODES`.
    group: consecutive inputs that share a scale, a multiple of 16; None is all inputs of an output.
    layout: one of `LAYOUTS`.
  """

  code: str
  group: int | None = None
  layout: str = "rows"

  def __post_init__(self) -> None:
    require(self.code in CODES, field_of(self, "code"), self.code, f"one of {', '.join(CODES)}")
    require(self.layout in LAYOUTS, field_of(self, "layout"), self.layout, f"one of {', '.join(LAYOUTS)}")
    if self.group is not None:
      whole_fields(self, "group", least=16)
      require(self.group % 16 == 0, field_of(self, "group"), self.group, "a multiple of 16")

  @property
  def name(self) -> str:
    """The code and the group, such as `int4_g32`."""
    return self.code if self.group is None else f"{self.code}_g{self.group}"

  @property
  def bits(self) -> int:
    """Bits of one number, without its share of a scale."""
    return CODES[self.code].bits

  @property
  def in_byte(self) -> int:
    """Numbers that a byte holds."""
    return 8 // self.bits

  @property
  def in_word(self) -> int:
    """Numbers that a word of a tile holds."""
    return WORD // self.bits

  @property
  def block(self) -> int:
    """Inputs of one block of a tile."""
    return RUN * self.in_word

  @property
  def values_dtype(self) -> str:
    """Name of the dtype of the stored values."""
    return "uint16" if self.layout == "tiles" else "int8" if self.code == "int8" else "uint8"

  def groups(self, inner: int) -> int:
    """Scales that one output of `inner` inputs needs."""
    return 1 if self.group is None else -(-inner // self.group)

  def inputs(self, inner: int) -> int:
    """Inputs that are stored for one output of `inner`."""
    whole = self.group or (LINE // LANES * self.in_byte if self.layout == "interleaved" else self.in_byte)
    whole = math.lcm(self.group or 1, self.block) if self.layout == "tiles" else whole
    return math.ceil(inner / whole) * whole

  def values_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the stored values of a weight."""
    *stack, outs, inner = shape
    stored = self.inputs(inner) // self.in_byte
    if self.layout == "rows":
      return (*stack, outs, stored)
    if self.layout == "tiles":
      return (*stack, -(-outs // LANES), self.inputs(inner) // self.block, LANES, RUN)
    return (*stack, -(-outs // LANES), stored * LANES // LINE, LINE)

  def scales_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the scales of a weight."""
    *stack, outs, inner = shape
    if self.layout == "rows":
      return (*stack, outs, self.groups(inner))
    return (*stack, -(-outs // LANES), self.groups(self.inputs(inner)), LANES)


INT8 = Form(code="int8")
"""8 bits, one scale an output."""
INT4 = Form(code="int4", group=32)
"""4 bits, one scale for every 32 inputs of an output."""
MXFP4 = Form(code="e2m1", group=32)
"""4-bit floats with a power of two for every 32 inputs of an output (OCP Microscaling Formats 1.0)."""
