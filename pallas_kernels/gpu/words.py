"""Numbers out of the words of a tile (`Form`, layout `tiles`) as bfloat16, in registers.

A register holds two words, and so two bfloat16 numbers of one place in them. Integer instructions move a number's bits
to where bfloat16 has bits of that kind, for both words at once, and one fused multiply-add gives what they mean:

- `int4`: as the lowest bits of 128's mantissa q makes 128 + q, of which 136 is taken.
- `int8`: the low seven bits likewise. The sign bit, as the lowest of the exponent, makes 128 or 256, which is taken.
- `e2m1`, `e4m3`: exponent and mantissa beside bfloat16's own point make a number that is too small by a power of two,
  of normal and subnormal numbers alike. The bits of NaN in `e4m3` become 480, as if they were a number's.

All of these are exact. Triton's own conversions take each number by itself, in twice the instructions.
"""

import jax
import jax.numpy as jnp
from numpy.typing import DTypeLike

from pallas_kernels.gpu.triton_backend import plgpu
from pallas_kernels.weights.form import CODES, WORD
from pallas_kernels.weights.layouts import meant

# bfloat16 has 7 bits of mantissa below 8 of exponent and the sign.
_MANTISSA, _ONE, _MINUS_ZERO, _SIGN = 7, 0x3F80, 0x8000, 0x8000
SMALLER = {"e2m1": 126, "e4m3": 120}
"""By how many powers of two a code of floats is smaller when its exponent is read as that of bfloat16."""
_MANTISSAS = {"e2m1": 1, "e4m3": 3}


def numbers(words: jax.Array, code: str, place: int, *, compiled: bool) -> jax.Array:
  """The numbers at `place` of uint16 `words` of any shape, less their code's zero, in bfloat16.

  `place` counts from the lowest bits of a word. Where this is not `compiled` for a GPU, it is plain JAX.
  """
  bits = CODES[code].bits
  if not compiled:
    stored = (words >> bits * place & 2**bits - 1).astype(jnp.int8 if code == "int8" else jnp.uint8)
    return meant(stored, code, jnp.bfloat16)
  return _assembled(ptx(code, place), [words], jnp.bfloat16, pack=2)


def added_product(total: jax.Array, sums: jax.Array, scales: jax.Array, *, compiled: bool) -> jax.Array:
  """`total + sums * scales` of float32 arrays of one shape: in one instruction, and rounding, where it is compiled."""
  if not compiled:
    return total + sums * scales
  return _assembled("fma.rn.f32 $0, $2, $3, $1;", [total, sums, scales], jnp.float32, pack=1)


def _assembled(text: str, args: list[jax.Array], dtype: DTypeLike, *, pack: int) -> jax.Array:
  (found,) = plgpu.elementwise_inline_asm(
    text,
    args=args,
    constraints=",".join(["=r", *"r" * len(args)]),
    pack=pack,
    result_shape_dtypes=[jax.ShapeDtypeStruct(args[0].shape, dtype)],
  )
  return found


def ptx(code: str, place: int) -> str:
  """Instructions that read two words in $1 and write two bfloat16 to $0."""
  bits, times = CODES[code].bits, _ONE
  if code == "int4":
    body = [*_moved("a", -bits * place, 0xF, 0x4300), f"mov.b32 b, {_twice(0xC308)};"]
  elif code == "int8":
    body = [*_moved("a", -bits * place, 0x7F, 0x4300), *_moved("b", -bits * place, 0x80, 0xC300)]
  else:
    size, first = bits - 1, _MANTISSA - _MANTISSAS[code]
    body = [
      *_moved("b", WORD - bits * (place + 1), _SIGN),
      *_moved("a", first - bits * place, (2**size - 1) << first, "b"),
      f"mov.b32 b, {_twice(_MINUS_ZERO)};",
    ]
    times = (127 + SMALLER[code]) << _MANTISSA
  body += [f"mov.b32 c, {_twice(times)};", "fma.rn.bf16x2 $0, a, c, b;"]
  return " ".join(["{ .reg .b32 a, b, m, c;", *body, "}"])


def _moved(register: str, left: int, mask: int, bits: int | str = 0) -> list[str]:
  """Both words moved left, or right where `left` is negative; of them the bits of `mask`, with those of `bits`."""
  shift = "mov" if left == 0 else "shl" if left > 0 else "shr"
  by = f", {abs(left)}" if left else ""
  kind = "u32" if shift == "shr" else "b32"
  lines = [f"{shift}.{kind} {register}, $1{by};", f"mov.b32 m, {_twice(mask)};"]
  if bits == 0:
    return [*lines, f"and.b32 {register}, {register}, m;"]
  # (register & m) | c in one instruction.
  constant = bits if isinstance(bits, str) else "c"
  lines += [] if isinstance(bits, str) else [f"mov.b32 c, {_twice(bits)};"]
  return [*lines, f"lop3.b32 {register}, {register}, m, {constant}, 0xEA;"]


def _twice(bits: int) -> str:
  """A constant for both words of a register."""
  return f"0x{bits << WORD | bits:08x}"
