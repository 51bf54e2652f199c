"""Instructions that take numbers out of words, read as PTX defines them, over every word that there is."""

import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from pallas_kernels.gpu.words import numbers, ptx
from pallas_kernels.weights.form import CODES

WORDS = np.arange(2**16, dtype=np.uint16)
MEANT = {
  "int8": lambda stored: stored.astype(np.uint8).view(np.int8).astype(np.float32),
  "int4": lambda stored: stored.astype(np.float32) - 8,
  "e2m1": lambda stored: stored.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32),
  "e4m3": lambda stored: stored.astype(np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32),
}
PLACES = [(code, place) for code in CODES for place in range(16 // CODES[code].bits)]


def halves(register):
  """The two bfloat16 of each 32-bit register, in float64."""
  return [
    (register >> shift & 0xFFFF).astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float64) for shift in (0, 16)
  ]


def multiplied(a, b, c):
  """Two times a * b + c, which is exact in float64, rounded once."""
  low, high = (
    (x * y + z).astype(ml_dtypes.bfloat16).view(np.uint16).astype(np.uint32)
    for x, y, z in zip(halves(a), halves(b), halves(c), strict=True)
  )
  return low | high << 16


# PTX ISA, "Logic and Shift Instructions" and "Half Precision Floating-Point Instructions": fma.
INSTRUCTIONS = {
  "mov.b32": lambda a: a,
  "and.b32": lambda a, b: a & b,
  "shl.b32": lambda a, by: a << by,
  "shr.u32": lambda a, by: a >> by,
  # 0xEA is what (0xF0 & 0xCC) | 0xAA gives.
  "lop3.b32": lambda a, b, c, table: {0xEA: a & b | c}[int(table)],
  "fma.rn.bf16x2": multiplied,
}


def run(text, word):
  """Runs a block of instructions on registers of $1; returns $0."""
  assert re.fullmatch(r"\{ \.reg \.b32 [a-z, ]+;.*\}", text)
  registers = {"$1": word}
  for line in filter(None, (part.strip() for part in text.strip("{ }").split(";")[1:])):
    name, rest = line.split(" ", 1)
    target, *sources = [part.strip() for part in rest.split(",")]
    values = [registers[part] if part in registers else np.uint32(int(part, 0)) for part in sources]
    registers[target] = np.broadcast_to(INSTRUCTIONS[name](*values), word.shape)
  return registers["$0"]


@pytest.mark.parametrize(("code", "place"), PLACES)
def test_two_words_become_two_numbers_whatever_stands_beside_them(code, place):
  random = np.random.default_rng(0)
  beside = random.permutation(WORDS)
  register = WORDS.astype(np.uint32) | beside.astype(np.uint32) << 16
  mask = 2 ** CODES[code].bits - 1
  for found, words in zip(halves(run(ptx(code, place), register)), (WORDS, beside), strict=True):
    stored = words >> CODES[code].bits * place & mask
    expected = MEANT[code](stored)
    if code == "e4m3":
      expected = np.where(np.isnan(expected), np.where(stored & 0x80, -480, 480), expected)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("code", "place"), PLACES)
def test_what_is_interpreted_gives_the_same_numbers(code, place):
  words = WORDS if code != "e4m3" else WORDS[(WORDS >> 8 * place & 127) != 127]
  register = words.astype(np.uint32)
  plain = numbers(jnp.asarray(words), code, place, compiled=False)
  assert plain.dtype == jnp.bfloat16
  np.testing.assert_array_equal(np.asarray(plain, np.float64), halves(run(ptx(code, place), register))[0])
