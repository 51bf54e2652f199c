"""Edits of the logits as arrays beside a step's own, which stay on the device while nobody asks for any."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from lynx_jax.engine.host.adjustments import AdjustedDraw
from lynx_jax.engine.host.constraint import pack_words
from lynx_jax.engine.host.step_plan import StepPlan
from lynx_jax.engine.paged.step_shape import StepShape
from lynx_jax.engine.sampling import LogitChanges

_BESIDE_POSITIONS = 512
"""Tokens that a request may change beside those that it has: biases and stop tokens."""


class StepEdits(NamedTuple):
  """What draws do to their logits, by slot.

  Attributes:
    changes: ids, scales and sums of what they change.
    masks: one bit a token that they may take, 32 tokens a word.
  """

  changes: Int32[Array, "_ S A"]
  masks: Int32[Array, "S W"]


def edits_shapes(shape: StepShape, vocab: int) -> tuple[tuple[int, int, int], tuple[int, int]]:
  """The sizes of `StepEdits`: ids, scales and sums, slots, the most tokens of one draw; slots and words."""
  return (3, shape.slots, min(vocab, shape.positions + _BESIDE_POSITIONS)), (shape.slots, -(-vocab // 32))


class EditsPacker:
  """Packs the edits of plans. For most plans that is nothing, which lies on the device."""

  def __init__(self, shape: StepShape, vocab: int):
    """For steps of an engine with so many slots and positions as `shape`."""
    self._vocab, self._slots = vocab, shape.slots
    self._changes_shape, _ = edits_shapes(shape, vocab)
    self._no_changes = jax.device_put(pack_changes((), self._changes_shape, vocab))
    self._no_masks = jax.device_put(pack_words((), self._slots, vocab))

  def pack(self, plan: StepPlan) -> Any:
    """The edits of a plan's draws: a `StepEdits` of arrays on the host or on the device."""
    changes: Any = pack_changes(plan.adjusted, self._changes_shape, self._vocab) if plan.adjusted else self._no_changes
    masks: Any = pack_words(plan.masked, self._slots, self._vocab) if plan.masked else self._no_masks
    return StepEdits(changes, masks)


def pack_changes(draws: Sequence[AdjustedDraw], shape: tuple[int, int, int], vocab: int) -> np.ndarray:
  """The array of changes. An id of `vocab` stands for no token."""
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


def unpack_masks(packed: Int32[Array, "S W"], slots: Int32[Array, "D"], vocab: int) -> Bool[Array, "D V"]:
  """The tokens that the draws of `slots` may take, inside a program."""
  words = packed[jnp.minimum(slots, packed.shape[0] - 1)]
  bits = words[:, :, None] >> jnp.arange(32, dtype=jnp.int32)[None, None] & 1
  return bits.reshape(words.shape[0], -1)[:, :vocab] != 0
