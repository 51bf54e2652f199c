"""The feed-forward part of a Mixture-of-Experts layer, over the experts that its rows chose."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int32, Num

from pallas_kernels.activations import SWIGLU, Activation
from pallas_kernels.cpu import unavailable
from pallas_kernels.dispatch import CPU, GPU, Choice, Implementation, Op
from pallas_kernels.expert_ffn.arguments import ExpertArrays, ExpertOptions
from pallas_kernels.expert_ffn.blocks import DECODE_TILE, tile_rows_for
from pallas_kernels.expert_ffn.capacity import capacity_ffn
from pallas_kernels.expert_ffn.cpu import cpu_objection, expert_ffn_cpu
from pallas_kernels.expert_ffn.loop import expert_ffn_loop
from pallas_kernels.expert_ffn.reference import expert_ffn_reference
from pallas_kernels.expert_ffn.tiles import Tiles, tile_rows
from pallas_kernels.expert_ffn.triton import expert_ffn_triton, objection
from pallas_kernels.gpu import triton_backend
from pallas_kernels.gpu.weight_products import READ
from pallas_kernels.weights.base import HeldWeight

__all__ = ["DECODE_TILE", "EXPERT_FFN", "Tiles", "capacity_ffn", "expert_ffn", "tile_rows", "tile_rows_for"]


def _differentiable(run: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
  """Gives `run` the reference's gradient: a loop whose length depends on data has none of its own."""

  @functools.cache
  def with_options(options: ExpertOptions) -> Callable[[ExpertArrays], jax.Array]:
    @jax.custom_vjp
    def call(arrays: ExpertArrays) -> jax.Array:
      return run(arrays, options=options)

    def forward(arrays: ExpertArrays) -> tuple[jax.Array, ExpertArrays]:
      return call(arrays), arrays

    def backward(arrays: ExpertArrays, cotangent: jax.Array) -> tuple[ExpertArrays]:
      def reference(floating: dict[str, Any]) -> jax.Array:
        return expert_ffn_reference(arrays._replace(**floating), options=options)

      names = ("x", "weights", "gate_up", "down", "gate_up_bias", "down_bias")
      (gradients,) = jax.vjp(reference, {name: getattr(arrays, name) for name in names})[1](cotangent)
      return (arrays._replace(ids=None, valid=None, tiles=None, **gradients),)

    call.defvjp(forward, backward)
    return call

  return lambda arrays, *, options: with_options(options)(arrays)


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
      unavailable=triton_backend.unavailable,
      takes=("bfloat16 bits", *READ),
    ),
    Implementation(
      "cpu",
      _differentiable(expert_ffn_cpu),
      "live experts in native code",
      (CPU,),
      cpu_objection,
      differentiable=True,
      unavailable=unavailable,
      takes=("bfloat16 bits", "int8", "int4"),
      bound=True,
    ),
    Implementation(
      "loop",
      _differentiable(expert_ffn_loop),
      "a loop over live experts and tiles of rows, in plain JAX",
      differentiable=True,
    ),
    Implementation("reference", _differentiable(expert_ffn_reference), "every expert over every row"),
  ),
)


def expert_ffn(
  x_TD: Float[Array, "T D"],
  ids_TK: Int32[Array, "T K"],
  weights_TK: Float32[Array, "T K"],
  gate_up: Num[Array, "E F2 D"] | HeldWeight,
  down: Num[Array, "E D F"] | HeldWeight,
  *,
  valid: Bool[Array, "T"] | None = None,
  tiles: Tiles | None = None,
  gate_up_bias: Float[Array, "E F2"] | None = None,
  down_bias: Float[Array, "E D"] | None = None,
  activation: Activation = SWIGLU,
  implementation: Choice = None,
) -> Float[Array, "T D"]:
  """y[t] = sum over k of weights[t, k] * down[e] @ activation(gate[e] @ x[t], up[e] @ x[t]), with e = ids[t, k].

  Products accumulate in float32, and the sum over k is taken in float32, in order. Only experts that a valid row
  chose are read. Differentiable in `x`, `weights`, floating expert weights and biases.

  Args:
    x_TD: rows; float32 or bfloat16.
    ids_TK: each row's experts, distinct, in [0, E).
    weights_TK: the weights of those experts.
    gate_up: [E, 2F, D], an expert's gate rows before its up rows; an array of `x`'s dtype, `BFloat16Bits`,
      or a `QuantizedWeight`.
    down: [E, D, F], likewise.
    valid: rows that count; the others may hold anything and give zeros. None takes all.
    tiles: the rows of each expert in tiles of `DECODE_TILE`, if routing has grouped them; they must agree with `ids`
      and `valid`. None groups them if the implementation needs it.
    gate_up_bias: added to the first product, gate's part before up's; None for no bias.
    down_bias: added to the second product, before the expert's weight; None for no bias.
    activation: of float32 gate and up values; static.
    implementation: "pallas", "cpu", "loop", "reference", a list of these, or None for the best on the platform.

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
  arrays = ExpertArrays(x_TD, ids_TK, weights_TK, gate_up, down, valid, tiles, gate_up_bias, down_bias)
  return EXPERT_FFN(implementation, arrays, options=ExpertOptions(activation=activation))
