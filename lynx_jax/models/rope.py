"""Rotary embeddings: what a model says of them, and the cosines and sines that follow, with each scaling method.

Frequencies are those of transformers (`modeling_rope_utils.py`), in float32. LongRoPE has two sets of them. A prompt
takes the long set where it is longer than the original context, for all of its positions. A decode step takes the long
set where its own position lies past that context, and leaves the cached keys as they are. transformers' models do the
same with one row; here each row of a batch decides for itself.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from pallas_kernels.checks import field_of, number_fields, require, whole_fields


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinearScaling:
  """Every frequency divided by `factor` (position interpolation, arXiv 2306.15595)."""

  factor: float

  def __post_init__(self) -> None:
    number_fields(self, "factor", above=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class YarnScaling:
  """Low frequencies divided by `factor`, high ones kept, a ramp between (YaRN, arXiv 2309.00071).

  Attributes:
    factor: how much longer the context became.
    original_context: positions of the first training.
    attention_factor: multiplies rotated queries and keys.
    beta_fast: rotations over the original context at which the ramp begins.
    beta_slow: rotations over the original context at which the ramp ends.
    truncate: whether the ramp's ends are rounded outwards to whole frequencies.
  """

  factor: float
  original_context: int
  attention_factor: float
  beta_fast: float = 32.0
  beta_slow: float = 1.0
  truncate: bool = True

  def __post_init__(self) -> None:
    whole_fields(self, "original_context", least=1)
    number_fields(self, "factor", "attention_factor", "beta_fast", "beta_slow", above=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Scaling:
  """Wavelengths over `original_context / low_frequency_factor` stretched by `factor`, short ones kept (Llama 3.1)."""

  factor: float
  low_frequency_factor: float
  high_frequency_factor: float
  original_context: int

  def __post_init__(self) -> None:
    whole_fields(self, "original_context", least=1)
    number_fields(self, "factor", "low_frequency_factor", above=0)
    above = self.high_frequency_factor >= self.low_frequency_factor
    expected = f"at least low_frequency_factor {self.low_frequency_factor}"
    require(above, field_of(self, "high_frequency_factor"), self.high_frequency_factor, expected)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LongScaling:
  """A divisor for each frequency, and others past the original context (LongRoPE, arXiv 2402.13753).

  Attributes:
    short_factors: divisors of a row no longer than `original_context`, one a pair.
    long_factors: those of a longer row.
    original_context: positions of the first training.
    short_attention_factor: multiplies rotated queries and keys of a short row.
    long_attention_factor: multiplies those of a longer row.
  """

  short_factors: tuple[float, ...]
  long_factors: tuple[float, ...]
  original_context: int
  short_attention_factor: float = 1.0
  long_attention_factor: float = 1.0

  def __post_init__(self) -> None:
    whole_fields(self, "original_context", least=1)
    number_fields(self, "short_attention_factor", "long_attention_factor", above=0)
    for field in ("short_factors", "long_factors"):
      factors = getattr(self, field)
      require(all(factor > 0 for factor in factors), field_of(self, field), factors, "positive numbers")

  def check_pairs(self, pairs: int) -> None:
    """Raises ValueError unless there is one factor for each of a head's `pairs`."""
    for field in ("short_factors", "long_factors"):
      count = len(getattr(self, field))
      expected = f"one for each of the {pairs} pairs of a head"
      require(count == pairs, field_of(self, field), f"{count} numbers", expected)


Scaling: TypeAlias = LinearScaling | YarnScaling | Llama3Scaling | LongScaling


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
  """Rotary embedding over the whole head, in the half-split layout: dimension i is paired with i + H/2.

  Checkpoints that pair neighbours are put in this order: when they are read (Llama 4), or as they run (`MLASpec`).

  Attributes:
    theta: base of the frequencies.
    scaling: how they were changed for a longer context, or None.
  """

  theta: float
  scaling: Scaling | None = None

  def __post_init__(self) -> None:
    number_fields(self, "theta", above=0)


class Rotary(NamedTuple):
  """A kind of rotation; layers of the same kind share the `Rotation` of a step.

  Attributes:
    width: numbers of a head that are rotated, even.
    rope: the frequencies and how they are scaled; None rotates nothing.
  """

  width: int
  rope: RopeSpec | None


class Rotation(NamedTuple):
  """What pairs of a head are multiplied by, as complex numbers: cosine and sine of the angle, times a magnitude."""

  cos: Float32[Array, "*rows half"]
  sin: Float32[Array, "*rows half"]


def rotation_at(positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"], rotary: Rotary) -> Rotation:
  """The rotation at each position (arXiv 2104.09864, section 3.2.2).

  Args:
    positions_BL: in tokens.
    lengths_B: tokens that each row has so far; only LongRoPE uses them.
    rotary: the kind of rotation.
  """
  head_dim, rope = rotary
  if rope is None:
    shape = (*positions_BL.shape, head_dim // 2)
    return Rotation(jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32))
  positions = positions_BL.astype(jnp.float32)[:, :, None]
  short = frequencies(rope, head_dim)
  if not isinstance(rope.scaling, LongScaling):
    magnitude = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0
    angles = positions * short[None, None, :]
    return Rotation(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)
  scaling = rope.scaling
  beyond = (lengths_B > scaling.original_context)[:, None, None]
  long = frequencies(rope, head_dim, beyond=True)
  angles = positions * jnp.where(beyond, long[None, None, :], short[None, None, :])
  magnitude = jnp.where(beyond, scaling.long_attention_factor, scaling.short_attention_factor).astype(jnp.float32)
  return Rotation(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)


def short_context(kinds: Iterable[Rotary]) -> int | None:
  """Tokens of a row past which some kind of rotation changes at all positions (LongRoPE); None if none does."""
  scalings = [kind.rope.scaling for kind in kinds if kind.rope is not None]
  return min((one.original_context for one in scalings if isinstance(one, LongScaling)), default=None)


def frequencies(rope: RopeSpec, head_dim: int, *, beyond: bool = False) -> Float32[np.ndarray, "half"]:
  """Radians a position for each pair of a head; `beyond` the original context, which only LongRoPE tells apart."""
  exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
  wavelengths = np.float32(rope.theta) ** exponents
  plain = np.float32(1) / wavelengths
  match rope.scaling:
    case None:
      return plain
    case LinearScaling(factor=factor):
      return plain / np.float32(factor)
    case YarnScaling():
      kept = _kept_by_yarn(rope.scaling, rope.theta, head_dim)
      return np.float32(1) / (np.float32(rope.scaling.factor) * wavelengths) * (1 - kept) + plain * kept
    case Llama3Scaling():
      return _llama3(rope.scaling, plain)
    case LongScaling():
      factors = rope.scaling.long_factors if beyond else rope.scaling.short_factors
      return np.float32(1) / (np.asarray(factors, np.float32) * wavelengths)


def _kept_by_yarn(scaling: YarnScaling, theta: float, head_dim: int) -> Float32[np.ndarray, "half"]:
  """How much of each frequency stays as it was: 1 for the fast ones, 0 for the slow ones, a ramp between."""

  def pair_that_rotates(times: float) -> float:
    return head_dim * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

  low, high = pair_that_rotates(scaling.beta_fast), pair_that_rotates(scaling.beta_slow)
  if scaling.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, head_dim - 1)
  if low == high:
    high += 0.001
  ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
  return 1 - np.clip(ramp, np.float32(0), np.float32(1))


def _llama3(scaling: Llama3Scaling, plain: Float32[np.ndarray, "half"]) -> Float32[np.ndarray, "half"]:
  """Long wavelengths stretched, short ones kept, and a ramp between, of no width in Llama 4."""
  low, high = (np.float32(x) for x in (scaling.low_frequency_factor, scaling.high_frequency_factor))
  rotations = np.float32(scaling.original_context) * plain / np.float32(2 * math.pi)
  ramp = (rotations - low) / (high - low) if high > low else (rotations > low).astype(np.float32)
  smooth = np.clip(ramp, np.float32(0), np.float32(1))
  return (1 - smooth) * plain / np.float32(scaling.factor) + smooth * plain
