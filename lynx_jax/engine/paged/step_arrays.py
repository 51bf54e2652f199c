"""What a step is told: its arrays, and their places in the one packed array that travels to the device."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32

from lynx_jax.engine.paged.layout import Layout
from lynx_jax.engine.paged.step_shape import STOP_IDS, StepShape

ABSENT, CHUNK, EXACT, ADAPTIVE = 0, 1, 2, 3
"""Kinds of rows: none; a prompt's token; a decoding row that runs the model's own experts; one under the policy."""


class StepArrays(NamedTuple):
  """The arrays of one step.

  Attributes:
    tables: the blocks of each slot.
    row_kind: ABSENT, CHUNK, EXACT or ADAPTIVE.
    row_slot: the slot of each row's sequence.
    row_position: where the row's token goes.
    row_length: tokens that its sequence had when it came to the row's position: all of a prompt, and those up to a
      token that was drawn.
    row_token: the token, or -1 where it is the newest of its slot, which the device has.
    row_weight: the row's say in the choice of experts.
    row_target: the token that follows in the prompt, where its log-probability is wanted, or -1.
    tile_start: first row of each tile of queries.
    tile_count: rows of the tile.
    tile_slot: its slot.
    tile_position: position of its first row.
    draw_row: the row whose logits a draw takes.
    draw_slot: the slot that draws; S for no draw.
    draw_index: tokens that its sequence has drawn before.
    draw_temperature: as in `Sampling`, and so are the next three.
    draw_top_k: see `Sampling`.
    draw_top_p: see `Sampling`.
    draw_min_p: see `Sampling`.
    draw_key: the raw key of its random stream.
    draw_stop_ids: tokens that end the row; -1 is none.
    draw_logprobs: likely tokens to report: -1 for none at all, 0 for the drawn token alone.
    limit: the most experts that a layer may read.
    changed: 1 if some draw changes its logits, else 0.
    masked: 1 if some draw may take some tokens only, else 0.
  """

  tables: Int32[Array, "S M"]
  row_kind: Int32[Array, "T"]
  row_slot: Int32[Array, "T"]
  row_position: Int32[Array, "T"]
  row_length: Int32[Array, "T"]
  row_token: Int32[Array, "T"]
  row_weight: Float32[Array, "T"]
  row_target: Int32[Array, "T"]
  tile_start: Int32[Array, "Q"]
  tile_count: Int32[Array, "Q"]
  tile_slot: Int32[Array, "Q"]
  tile_position: Int32[Array, "Q"]
  draw_row: Int32[Array, "D"]
  draw_slot: Int32[Array, "D"]
  draw_index: Int32[Array, "D"]
  draw_temperature: Float32[Array, "D"]
  draw_top_k: Int32[Array, "D"]
  draw_top_p: Float32[Array, "D"]
  draw_min_p: Float32[Array, "D"]
  draw_key: Int32[Array, "D 2"]
  draw_stop_ids: Int32[Array, "D _"]
  draw_logprobs: Int32[Array, "D"]
  limit: Int32[Array, ""]
  changed: Int32[Array, ""]
  masked: Int32[Array, ""]


_FLOATS = frozenset({"row_weight", "draw_temperature", "draw_top_p", "draw_min_p"})

# What an entry holds where a plan says nothing; 0 elsewhere.
_EMPTY = {"tables": -1, "row_token": -1, "row_target": -1, "draw_stop_ids": -1, "draw_logprobs": -1, "draw_top_p": 1.0}


def step_layout(shape: StepShape) -> Layout:
  """Where each array of a step lies in the packed one."""
  axes = {"row": (shape.rows,), "tile": (shape.tiles,), "draw": (shape.draws,)}
  special = {
    "tables": (shape.slots, shape.table),
    "draw_key": (shape.draws, 2),
    "draw_stop_ids": (shape.draws, STOP_IDS),
    "limit": (),
    "changed": (),
    "masked": (),
  }

  def sizes(name: str) -> tuple[int, ...]:
    return special[name] if name in special else axes[name.split("_")[0]]

  return Layout([(name, sizes(name), "float" if name in _FLOATS else "int") for name in StepArrays._fields])


def unpack_step(packed: Int32[Array, "I"], shape: StepShape) -> StepArrays:
  """The arrays of a step, inside a program."""
  return StepArrays(**step_layout(shape).unpack(packed))


class EmptyStep:
  """Makes packed steps of one shape in which every row is absent."""

  def __init__(self, shape: StepShape):
    """Lays one out."""
    self.layout = step_layout(shape)
    self._packed = np.zeros(self.layout.size, np.int32)
    for name, view in self.layout.views(self._packed).items():
      view[...] = shape.slots if name == "draw_slot" else _EMPTY.get(name, 0)

  def __call__(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A fresh packed array, and its parts by name for the caller to fill."""
    packed = self._packed.copy()
    return packed, self.layout.views(packed)
