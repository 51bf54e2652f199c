"""By how much rotary positions turn queries and keys, and stretch them.

Frequencies are those of transformers (`modeling_rope_utils.py`), in float32. LongRoPE has two sets of them: a prompt
takes the long one where it is longer than the original context, all of its positions alike; a decode step takes it
where its own position lies past that context, and leaves the cached keys as they are. That is what
transformers' models do with one row; here each row of a batch decides for itself.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

from lynx_jax.models.spec import LinearScaling, Llama3Scaling, LongScaling, RopeSpec, YarnScaling


class Turn(NamedTuple):
  """What pairs of a head are multiplied by, as complex numbers: cosine and sine of the angle, times a magnitude."""

  cos: Float32[Array, "*rows half"]
  sin: Float32[Array, "*rows half"]


def rotary_turn(
  positions_BL: Int[Array, "B L"], lengths_B: Int[Array, "B"], head_dim: int, rope: RopeSpec | None
) -> Turn:
  """The turn at each position (arXiv 2104.09864, section 3.2.2); none at all without `rope`.

  Args:
    positions_BL: in tokens.
    lengths_B: tokens that each row has so far; only LongRoPE asks.
    head_dim: numbers of a head.
    rope: the frequencies and how they are scaled.
  """
  if rope is None:
    shape = (*positions_BL.shape, head_dim // 2)
    return Turn(jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32))
  positions = positions_BL.astype(jnp.float32)[:, :, None]
  short = frequencies(rope, head_dim)
  if not isinstance(rope.scaling, LongScaling):
    magnitude = rope.scaling.attention_factor if isinstance(rope.scaling, YarnScaling) else 1.0
    angles = positions * short[None, None, :]
    return Turn(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)
  scaling = rope.scaling
  beyond = (lengths_B > scaling.original_context)[:, None, None]
  long = frequencies(rope, head_dim, beyond=True)
  angles = positions * jnp.where(beyond, long[None, None, :], short[None, None, :])
  magnitude = jnp.where(beyond, scaling.long_attention_factor, scaling.short_attention_factor).astype(jnp.float32)
  return Turn(jnp.cos(angles) * magnitude, jnp.sin(angles) * magnitude)


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

  def pair_that_turns(times: float) -> float:
    return head_dim * math.log(scaling.original_context / (times * 2 * math.pi)) / (2 * math.log(theta))

  low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
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
  turns = np.float32(scaling.original_context) * plain / np.float32(2 * math.pi)
  ramp = (turns - low) / (high - low) if high > low else (turns > low).astype(np.float32)
  smooth = np.clip(ramp, np.float32(0), np.float32(1))
  return (1 - smooth) * plain / np.float32(scaling.factor) + smooth * plain
