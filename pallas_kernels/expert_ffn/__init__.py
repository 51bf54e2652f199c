"""The feed-forward part of a Mixture-of-Experts layer, over the experts that its rows chose."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

from pallas_kernels._dispatch import GPU, Implementation, Op
from pallas_kernels.expert_ffn.blocks import DECODE_TILE, tile_rows_for
from pallas_kernels.expert_ffn.capacity import capacity_ffn
from pallas_kernels.expert_ffn.cpu import expert_ffn_cpu
from pallas_kernels.expert_ffn.reference import expert_ffn_reference
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.expert_ffn.triton import expert_ffn_triton, objection

__all__ = ["DECODE_TILE", "EXPERT_FFN", "Tiles", "capacity_ffn", "expert_ffn", "tile_rows", "tile_rows_for"]


def _differentiable(run):
  """Gives `run` the reference's gradient: its loop has a length that only the data know."""

  @jax.custom_vjp
  def call(x, weights, gate_up, down, ids, valid, tiles):
    return run(x, weights, gate_up, down, ids, valid, tiles)

  def forward(*inputs):
    return call(*inputs), inputs

  def backward(inputs, cotangent):
    x, weights, gate_up, down, ids, valid, _ = inputs

    def reference(x, weights, gate_up, down):
      return expert_ffn_reference(x, ids, weights, gate_up, down, valid)

    return *jax.vjp(reference, x, weights, gate_up, down)[1](cotangent), None, None, None

  call.defvjp(forward, backward)
  return call


def _without_tiles(run):
  """`run` as an implementation that groups rows itself, or not at all."""
  return lambda x, weights, gate_up, down, ids, valid, tiles: run(x, ids, weights, gate_up, down, valid)


EXPERT_FFN = Op(
  "expert_ffn",
  (
    Implementation(
      "pallas",
      _differentiable(expert_ffn_triton),
      "two kernels over live experts",
      (GPU,),
      objection,
      differentiable=True,
    ),
    Implementation(
      "cpu",
      _differentiable(_without_tiles(expert_ffn_cpu)),
      "a loop over live experts and tiles of rows, in plain JAX",
    ),
    Implementation("reference", _differentiable(_without_tiles(expert_ffn_reference)), "every expert over every row"),
  ),
)


def expert_ffn(
  x_TD: Float[Array, "T D"],
  ids_TK: Int32[Array, "T K"],
  weights_TK: Float32[Array, "T K"],
  gate_up: Num[Array, "E F2 D"],
  down: Num[Array, "E D F"],
  *,
  valid: Bool[Array, "T"] | None = None,
  tiles: Tiles | None = None,
  implementation: str | None = None,
) -> Float[Array, "T D"]:
  """y[t] = sum over k of weights[t, k] * down[e] @ (silu(gate[e] @ x[t]) * (up[e] @ x[t])), with e = ids[t, k].

  Products accumulate in float32, and the sum over k is taken in float32, in order. Only experts that a valid row
  chose are read. Differentiable in `x`, `weights` and floating expert weights.

  Args:
    x_TD: rows; float32 or bfloat16.
    ids_TK: each row's experts, distinct, in [0, E).
    weights_TK: and their weights.
    gate_up: [E, 2F, D], an expert's gate rows before its up rows; `x`'s dtype, or uint16 holding bfloat16 bits.
    down: [E, D, F], likewise.
    valid: rows that count; the others may hold anything and give zeros. None takes all.
    tiles: the rows of each expert, in tiles of `DECODE_TILE`, where routing has grouped them already; it must
      agree with `ids` and `valid`. None groups them where the implementation needs it.
    implementation: "pallas", "cpu", "reference", or None for the best on the platform.

  Returns:
    [T, D] in `x`'s dtype.

  Raises:
    ValueError: shapes that do not fit each other, or an unknown implementation.
  """
  experts, twice, width = gate_up.shape
  if twice % 2 or width != x_TD.shape[1] or down.shape != (experts, width, twice // 2):
    raise ValueError(
      f"gate_up {gate_up.shape}, down {down.shape} and x {x_TD.shape} do not fit: "
      "expected [E, 2F, D], [E, D, F] and [T, D]"
    )
  valid = jnp.ones(x_TD.shape[:1], bool) if valid is None else valid
  return EXPERT_FFN(implementation, x_TD, weights_TK, gate_up, down, ids_TK, valid, tiles)
