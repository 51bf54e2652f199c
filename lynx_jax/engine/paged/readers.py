"""Who reads which expert in a step: prompts, exact rows, adaptive rows; and what rows' own routing would read."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from lynx_jax.engine.paged.step_arrays import ABSENT, CHUNK
from lynx_jax.models.parts import ExpertTrace
from pallas_kernels.lynx_route import score_rows

PROMPTS, EXACT, ADAPTIVE, OWN = 1, 2, 4, 8
"""Bits of an expert: who reads it, and whether the model's own routing of all rows would."""


def expert_readers(
  traces: list[ExpertTrace], kind: Int32[Array, "T"], present: Bool[Array, "T"], *, compared: bool
) -> Int32[Array, "M E"]:
  """The bits of every expert of every MoE layer; layers with fewer experts are filled up with zeros.

  Args:
    traces: what each layer decided.
    kind: of each row (`StepArrays.row_kind`).
    present: whether it is there.
    compared: whether rows may run other experts than their own. If not, `OWN` is whatever is read.
  """
  most = max(trace.logits.shape[1] for trace in traces)
  return jnp.stack([
    jnp.pad(bits, (0, most - bits.shape[0]))
    for bits in (_of_layer(trace, kind, present, compared=compared) for trace in traces)
  ])  # fmt: skip


def _of_layer(
  trace: ExpertTrace, kind: Int32[Array, "T"], present: Bool[Array, "T"], *, compared: bool
) -> Int32[Array, "E"]:
  experts, classes = trace.logits.shape[1], (PROMPTS, EXACT, ADAPTIVE, OWN)
  # A row that is not there writes past the last place.
  row_class = jnp.where(present & (kind != ABSENT), kind - CHUNK, len(classes))
  read = jnp.zeros((len(classes), experts), bool)
  # Experts without weight do not run.
  column = jnp.where(trace.routing.weights > 0, trace.routing.ids, experts)
  read = read.at[row_class[:, None], column].set(True, mode="drop")
  if compared:
    own = score_rows(trace.logits, trace.top_k, trace.top_k, present, trace.router, trace.selection_bias).ids
    own_class = jnp.where(present, classes.index(OWN), len(classes))
    read = read.at[own_class[:, None], own].set(True, mode="drop")
  else:
    read = read.at[classes.index(OWN)].set(read.any(axis=0))
  return jnp.where(read, jnp.array(classes, jnp.int32)[:, None], 0).sum(axis=0, dtype=jnp.int32)
