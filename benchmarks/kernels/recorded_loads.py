"""Router logits and expert loads taken from a recorded decode of gpt-oss-20b.

The record (benchmarks/data/README.md) says which 4 of 32 experts each sequence chose in each layer. Other models have
other numbers of experts, so a layer of `experts` experts is made from it:

- more than 32: the experts of several recorded layers side by side, of which a row keeps its `top_k` largest weights;
- fewer than 32: equal groups of recorded experts become one expert, whose weight is the group's sum.

Logits of the experts that a row did not choose are not recorded. They are assumed: below every chosen expert, in the
order of how often the experts are chosen in the whole record.
"""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int32

RECORD = Path(__file__).parents[1] / "data" / "gpt_oss_20b_routing.npz"
_RECORDED_EXPERTS = 32
# Distance of the most popular expert that a row did not choose from the least of those that it chose.
_BELOW = 0.5


def recorded_logits(rows: int, experts: int, top_k: int, *, step: int = 0) -> Float32[np.ndarray, "T E"]:
  """Router logits of one decode step, whose `top_k` largest of each row are what was recorded.

  Args:
    rows: sequences that decode together, at most 64.
    experts: of the layer; a divisor or a multiple of 32.
    top_k: experts that a row runs.
    step: which of the recorded steps.

  Raises:
    ValueError: the record has not so many rows, or the number of experts is neither a divisor nor a multiple of 32.
  """
  weights_TE = _layer_weights(experts, step)
  if rows > len(weights_TE):
    raise ValueError(f"rows is {rows}, but {len(weights_TE)} sequences are recorded: ask for fewer")
  weights_TE = weights_TE[:rows]
  chosen_TE = np.zeros_like(weights_TE, bool)
  np.put_along_axis(chosen_TE, np.argsort(-weights_TE, axis=1, kind="stable")[:, :top_k], True, axis=1)
  chosen_TE &= weights_TE > 0
  popularity_E = recorded_loads(experts, top_k) + 1.0
  logits_TE = np.log(np.where(chosen_TE, weights_TE, 1.0))
  least_T = np.where(chosen_TE, logits_TE, np.inf).min(axis=1, keepdims=True)
  others_TE = least_T - _BELOW + np.log(popularity_E / popularity_E.max())[None]
  return np.where(chosen_TE, logits_TE, others_TE).astype(np.float32)


@functools.cache
def recorded_loads(experts: int, top_k: int) -> Int32[np.ndarray, "E"]:
  """Rows of each expert when all recorded sequences and steps run at once: 256 tokens of `top_k` experts each."""
  steps = len(np.load(RECORD)["ids"])
  every_TE = np.concatenate([_layer_weights(experts, step) for step in range(steps)])
  chosen = np.argsort(-every_TE, axis=1, kind="stable")[:, :top_k]
  return np.bincount(chosen.ravel(), minlength=experts).astype(np.int32)


def _layer_weights(experts: int, step: int) -> Float32[np.ndarray, "T E"]:
  """The recorded weights of one step, in a layer of `experts` experts; 0 where a row did not choose an expert."""
  if experts % _RECORDED_EXPERTS and _RECORDED_EXPERTS % experts:
    raise ValueError(f"experts is {experts}: expected a divisor or a multiple of {_RECORDED_EXPERTS}, as recorded")
  record = np.load(RECORD)
  ids, weights = record["ids"][step], record["weights"][step]
  # From the middle of the model: the first and the last layers route in their own ways.
  layers = 6 + np.arange(max(1, experts // _RECORDED_EXPERTS))
  by_layer = np.zeros((len(layers), ids.shape[1], _RECORDED_EXPERTS), np.float32)
  np.put_along_axis(by_layer, ids[layers].astype(np.int64), weights[layers] / 255, axis=2)
  side_by_side = by_layer.transpose(1, 0, 2).reshape(ids.shape[1], -1)
  return side_by_side.reshape(ids.shape[1], experts, -1).sum(axis=2)
