"""Changes of the logits as one array beside a step's own, which stays on the device while nobody asks for any."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32

from lynx_jax.engine.host.adjustments import AdjustedDraw
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.sampling import LogitChanges

_BESIDE_POSITIONS = 512
"""Tokens that a request may change beside those that it has: biases and stop tokens."""


def changes_shape(shape: StepShape, vocab: int) -> tuple[int, int, int]:
  """The sizes of the array: ids, scales and sums; slots; the most tokens of one draw."""
  return 3, shape.slots, min(vocab, shape.positions + _BESIDE_POSITIONS)


def pack_changes(draws: Sequence[AdjustedDraw], shape: tuple[int, int, int], vocab: int) -> np.ndarray:
  """The array of a plan's draws. An id of `vocab` stands for no token."""
  packed = np.zeros(shape, np.int32)
  packed[0] = vocab
  floats = packed.view(np.float32)
  for draw in draws:
    count = len(draw.ids)
    packed[0, draw.slot, :count] = draw.ids
    floats[1, draw.slot, :count] = draw.scale
    floats[2, draw.slot, :count] = draw.add
  return packed


def unpack_changes(packed: Int32[Array, "_ S A"], slots: Int32[Array, "D"]) -> LogitChanges:
  """The changes of the draws of `slots`, inside a program."""
  of_draws = packed[:, jnp.minimum(slots, packed.shape[1] - 1)]
  floats = jax.lax.bitcast_convert_type(of_draws[1:], jnp.float32)
  return LogitChanges(of_draws[0], floats[0], floats[1])
